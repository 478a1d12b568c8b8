"""What a recipe needs on N devices of M GiB, and what fits: `selfplay plan`. Shapes only; no weights are read.

The learner and its sampler (`cluster.actors = 0`) share the mesh, of one process or of several; weights and caches are
split over all of it. A step has three moments at which most is held; each must fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import envs
from selfplay import recipe
from selfplay.caches import cache_bytes
from selfplay.config import Mesh, Run
from selfplay.errors import UserError
from selfplay.footprint import SCRATCH, Scratch, Subject, device_bytes, model_bytes
from selfplay.layout import row_width
from selfplay.models import ModelConfig
from selfplay.models.config import from_hf, read_config, read_json
from selfplay.models.decoder import abstract_params
from selfplay.models.hf import EMBEDDED, locate
from selfplay.models.hub import fetch_config, is_id
from selfplay.models.lora import with_adapter
from selfplay.models.sharding import batch_parts, check_mesh, make_mesh, parameter_shardings
from selfplay.records import Role
from selfplay.units import is_game, sampling

GIB = 2**30

UPDATE = ("parameters", "moments", "gradients", "base", "slab", "scratch", "sampler_weights")
PUBLISH = ("parameters", "moments", "base", "sampler_weights", "sampler_next")
SAMPLE = (
    "parameters", "moments", "base", "sampler_weights", "sampler_gathered", "kv_cache", "kv_set_aside",
    "sampler_scratch",
)  # fmt: skip
MOMENTS = {"update": UPDATE, "publish": PUBLISH, "sample": SAMPLE}
"""What a device holds at each moment of a step. The sampler's weights count in all, though most recipes let them go
before an update (`Crew.let_go`): where a role plays as an earlier version, they stay."""


@dataclass(frozen=True)
class Limits:
    """What the plan is held against."""

    devices: int
    memory_gib: float
    """Of one device."""
    reserve: float = 0.1
    """Share of it that is left free, for fragments, programs and the runtime."""
    prompt_tokens: int | None = None
    """Tokens of the longest prompt; None = what update.row_tokens leaves beside the longest response, at least 32."""
    scratch: str = "compiled"
    """How the scratch is found: a name of footprint.SCRATCH."""

    def __post_init__(self) -> None:
        for flag, value, least in (("--devices", self.devices, 1), ("--prompt-tokens", self.prompt_tokens, 1)):
            if value is not None and value < least:
                raise UserError(f"{flag} must be >= {least}, got {value}")
        if self.scratch not in SCRATCH:
            raise UserError(f"--scratch must be one of {', '.join(SCRATCH)}, got {self.scratch!r}")
        if not 0 < self.memory_gib < float("inf"):
            raise UserError(f"--memory-gib must be > 0, got {self.memory_gib:g}")
        if not 0 <= self.reserve < 1:
            raise UserError(f"--reserve must be in [0, 1), got {self.reserve:g}")

    @property
    def budget(self) -> float:
        """Bytes of a device that may be used."""
        return self.memory_gib * GIB * (1 - self.reserve)


@dataclass(frozen=True)
class Calls:
    """The lengths and row counts that follow from the recipe, in tokens and rows."""

    prompt: int
    response: int
    rows: Mapping[str, tuple[int, int]]
    """Rows and longest response of each kind of sampler call."""
    places: int
    """Rows that are decoded side by side; 0 = all of a call."""


@dataclass(frozen=True)
class Plan:
    """What a device holds, in bytes, and what fits."""

    recipe: str
    model: str
    policy: str
    mesh: Mapping[str, int]
    chosen_mesh: bool
    """The plan chose the mesh, as the recipe and the flags gave none."""
    devices: int
    memory_gib: float
    reserve: float
    scratch_from: str
    dtype: str
    micro_rows: int
    row_tokens: int
    prompt_tokens: int
    response_tokens: int
    sampled_rows: int
    bytes: Mapping[str, int]
    """Each part of WORDS."""
    moments: Mapping[str, int]
    """The sum at each moment."""
    fits: bool
    largest_micro_rows: int
    """Of rows of `row_tokens`; 0 = none."""
    largest_response: int
    """At `micro_rows` and the recipe's sampled rows, after the prompt; 0 = none."""
    problems: Sequence[str]
    """Which moment does not fit, by how much, its largest part, and what would help."""


def plan_command(run: Run, limits: Limits, *, given_mesh: bool) -> Plan:
    """The plan of a resolved run, on the devices that jax has (pretended ones: `limits.devices` of them).

    Args:
      given_mesh: the recipe or the flags name a mesh; else one is chosen.

    Raises:
      UserError: the model is unknown or cannot be split so, or the mesh does not fit the devices.
    """
    recipe.check_envs(run)
    name, config = _policy(run)
    policy = run.policies[name]
    if run.update.micro_rows < 1:
        raise UserError("update.micro_rows = 0 (the whole minibatch) cannot be planned: name a number of rows")
    mesh = _mesh(config, run.mesh, limits.devices, given=given_mesh)
    subject = Subject(config, run.update, run.roles, make_mesh(mesh.data, mesh.fsdp, mesh.tensor), policy.dtype)
    calls = _calls(run, limits)
    width = row_width(calls.prompt + calls.response - 1, run.update.row_tokens)  # `layout.columns`
    scratch = Scratch(subject, limits.scratch, run.update.micro_rows, width)
    kl = run.update.kl
    base = (kl.place != "none" and kl.reference == "base") or not all(role.trainable for role in run.roles.values())
    parts = _state_bytes(subject, run.update.micro_rows, width, keeps_base=base) | _sampler_bytes(subject, calls)
    parts["scratch"] = int(scratch.asked())
    moments = {moment: sum(parts[part] for part in held) for moment, held in MOMENTS.items()}
    most_rows, longest = _largest(scratch, parts, calls, limits)
    return Plan(
        recipe=run.recipe,
        model=policy.model,
        policy=name,
        mesh=asdict(mesh),
        chosen_mesh=not given_mesh,
        devices=limits.devices,
        memory_gib=limits.memory_gib,
        reserve=limits.reserve,
        scratch_from=limits.scratch,
        dtype=policy.dtype,
        micro_rows=run.update.micro_rows,
        row_tokens=width,
        prompt_tokens=calls.prompt,
        response_tokens=calls.response,
        sampled_rows=max(rows for rows, _ in calls.rows.values()),
        bytes=parts,
        moments=moments,
        fits=max(moments.values()) <= limits.budget,
        largest_micro_rows=most_rows,
        largest_response=longest,
        problems=_problems(run, subject, parts, moments, limits),
    )


def config_of(model: str) -> ModelConfig:
    """The config of `tiny`, of a folder, of a config.json, or of a hub id, of which only config.json is fetched."""
    path = Path(model).expanduser()
    if path.is_file():
        return from_hf(read_json(path), source=model)
    if is_id(model) and not path.is_dir() and model not in EMBEDDED:
        return read_config(fetch_config(model))
    return read_config(locate(model))


# ---------------------------------------------------------------- what is planned


def _policy(run: Run) -> tuple[str, ModelConfig]:
    """The one policy that the roles play, its adapter included."""
    names = sorted({run.roles[role].policy for role in run.used_roles})
    if len(names) > 1:
        raise UserError(f"plan speaks of one policy, and the roles of {run.recipe} have {', '.join(names)}")
    policy = run.policies[names[0]]
    return names[0], with_adapter(config_of(policy.model), policy.lora)


def _mesh(config: ModelConfig, asked: Mesh, devices: int, *, given: bool) -> Mesh:
    """The mesh asked for, or fsdp over all devices with as little `tensor` as the model needs to divide.

    Raises:
      UserError: it needs another number of devices, or a parameter does not divide over any.
    """
    if given:
        if asked.devices != devices:
            shape = f"mesh.data={asked.data} mesh.fsdp={asked.fsdp} mesh.tensor={asked.tensor}"
            raise UserError(f"{shape} needs {asked.devices} devices, and --devices is {devices}")
        return asked
    first: UserError | None = None
    for tensor in (n for n in range(1, devices + 1) if devices % n == 0):
        mesh = Mesh(fsdp=devices // tensor, tensor=tensor)
        try:
            placed = make_mesh(mesh.data, mesh.fsdp, mesh.tensor)
            check_mesh(config, placed)
            parameter_shardings(abstract_params(config), placed)
            return mesh
        except UserError as error:
            first = first or error
    raise UserError(f"no mesh of fsdp x tensor = {devices} devices splits this model: {first}; try other --devices")


def _calls(run: Run, limits: Limits) -> Calls:
    """How many rows the sampler draws at once, and how long they become."""
    rows: dict[str, tuple[int, int]] = {}
    made = [envs.make(name, **choice.options) for name, choice in run.envs.items()]

    def longest(role: Role) -> int:
        return max(sampling(run, role, env).max_new_tokens for env in made if is_game(env) == (role == "play"))

    proposes = run.acquire.mix.get("propose", 0) > 0
    roles = [role for role in run.used_roles if role != "propose" or proposes]
    if proposes:
        rows["propose"] = run.acquire.tasks_per_unit, longest("propose")
    if "solve" in roles:
        rows["solve"] = run.acquire.tasks_per_unit * run.acquire.group_size, longest("solve")
        rows["evaluate"] = run.evaluate.tasks_per_unit, longest("solve")
    if "play" in roles:
        rows["play"] = run.acquire.tasks_per_unit * run.acquire.group_size, longest("play")
    response = max(longest(role) for role in roles)
    prompt = limits.prompt_tokens or max(run.update.row_tokens - response, 32)
    return Calls(prompt, response, rows, run.acquire.slots)


# ---------------------------------------------------------------- bytes


def _state_bytes(subject: Subject, rows: int, width: int, *, keeps_base: bool) -> dict[str, int]:
    """What lasts longer than a program runs; exact. Sampler and learner share the base and what is published."""
    updater = subject.updater()
    shapes = updater.programs.shapes(rows * batch_parts(subject.mesh), width)
    state, frozen, slabs, _ = shapes
    parameters = device_bytes(state.params)
    trained = _as(parameters, subject)
    return {
        "parameters": parameters,
        "moments": device_bytes(state) - parameters,
        "gradients": device_bytes(updater.programs.total_shapes(shapes)),
        "base": device_bytes(frozen) if frozen else trained if keeps_base else 0,
        "slab": device_bytes(slabs),
        "sampler_weights": trained,
        "sampler_next": trained,
    }


def _sampler_bytes(subject: Subject, calls: Calls) -> dict[str, int]:
    """What the sampler holds beside the weights.

    Logits are four times [R V] float32 (`sampler.draw`: logits, log-softmax, probabilities, their sum), the scores
    of a prefill twice [P N T T] float32 in a layer. Weights split over `fsdp` are gathered before the loop over
    tokens and held through it, all layers: so the compiled program has it, each device then holds 1 / tensor of them.
    """
    config, parts = subject.config, batch_parts(subject.mesh)
    caches = [_cache(subject, rows, calls.prompt + new, calls.places) for rows, new in calls.rows.values()]
    cache, most = max(caches, key=lambda pair: pair[1])
    rows = max(rows for rows, _ in calls.rows.values())
    prompts = max(calls.rows.get(kind, (0, 0))[0] for kind in ("evaluate", "propose", "play"))
    scores = 2 * 4 * -(-prompts // parts) * config.heads * calls.prompt**2
    fsdp, tensor = subject.mesh.shape["fsdp"], subject.mesh.shape["tensor"]
    return {
        "kv_cache": cache,
        "kv_set_aside": most - cache,
        "sampler_gathered": model_bytes(config, subject.dtype) // tensor if fsdp > 1 else 0,
        "sampler_scratch": max(4 * 4 * -(-rows // parts) * config.vocab_size, scores),
    }


def _cache(subject: Subject, rows: int, tokens: int, places: int) -> tuple[int, int]:
    """`caches.cache_bytes` of a call on this mesh."""
    parts = batch_parts(subject.mesh)
    return cache_bytes(subject.config, rows=rows, tokens=tokens, dtype=subject.dtype, parts=parts, places=places)


def _as(float32_bytes: int, subject: Subject) -> int:
    """The same numbers in the policy's dtype."""
    return float32_bytes * _item(subject) // 4


def _item(subject: Subject) -> int:
    return 2 if subject.dtype == "bfloat16" else 4


# ---------------------------------------------------------------- what fits


def _largest(scratch: Scratch, parts: Mapping[str, int], calls: Calls, limits: Limits) -> tuple[int, int]:
    """The largest micro_rows at the width asked, and the longest response at the rows asked; 0 = none."""
    fixed = sum(parts[part] for part in UPDATE if part not in ("scratch", "slab"))
    per_row = parts["slab"] / scratch.rows
    room = limits.budget - fixed - parts["slab"]
    if fixed >= limits.budget:
        return 0, 0
    rows = scratch.largest_rows(fixed, per_row, limits.budget)
    width = scratch.largest_width(room, scratch.subject.config.max_positions)
    held = sum(parts[part] for part in SAMPLE if not part.startswith("kv"))
    for response in range(width - calls.prompt, 0, -1):
        reach, places = calls.prompt + response, calls.places
        caches = (_cache(scratch.subject, rows_, reach, places)[1] for rows_, _ in calls.rows.values())
        if held + max(caches) <= limits.budget:
            return rows, response
    return rows, 0


def _problems(
    run: Run, subject: Subject, parts: Mapping[str, int], moments: Mapping[str, int], limits: Limits
) -> list[str]:
    """One line a moment that does not fit."""
    lines = []
    for moment, total in moments.items():
        if total > limits.budget:
            worst = max(MOMENTS[moment], key=lambda part: parts[part])
            lines.append(
                f"{moment} needs {total / GIB:.2f} GiB of {limits.budget / GIB:.2f}: most is "
                f"{worst.replace('_', ' ')} ({parts[worst] / GIB:.2f} GiB); try {_help(worst, run, subject)}"
            )
    return lines


def _help(part: str, run: Run, subject: Subject) -> str:
    """What makes a part smaller, of what is not done already."""
    name = next(iter(run.roles.values())).policy
    narrow = [] if subject.dtype == "bfloat16" else [f"policies.{name}.dtype = bfloat16"]
    adapter = [] if subject.config.lora is not None else [f"policies.{name}.lora.rank = 16"]
    spread = ["more devices on mesh.fsdp"]
    fewer = [] if run.update.micro_rows == 1 else ["a smaller update.micro_rows"]
    remat = [] if run.update.remat == "block" else ["update.remat = block"]
    rows = ["a smaller acquire.tasks_per_unit, acquire.group_size or evaluate.tasks_per_unit"]
    ways = {
        "parameters": adapter + spread,
        "moments": adapter + spread,
        "gradients": adapter + spread,
        "base": narrow + spread,
        "slab": fewer + ["a smaller update.row_tokens"],
        "scratch": fewer + remat + narrow + ["a smaller update.logit_chunk or update.row_tokens", "mesh.tensor"],
        "sampler_weights": narrow + adapter + spread,
        "sampler_next": narrow + adapter + spread,
        "sampler_gathered": narrow + ["a larger mesh.tensor with a smaller mesh.fsdp"],
        "kv_cache": narrow + rows,
        "kv_set_aside": narrow + rows,
        "sampler_scratch": rows,
    }
    return ", ".join(ways[part])
