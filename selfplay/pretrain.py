"""Pretrain a small base model on the environments' own train splits, so that self-play has something to start from.

Solve examples are (prompt, gold) and propose examples (ask, offer); easy sizes mostly, harder ones in a thin tail.
The same settings and seed give the same weights. Letters: B rows, T tokens.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from envs import make
from envs.base import Env, Proposable, Task, Verifiable
from selfplay import recipe, tree
from selfplay.config import EnvChoice
from selfplay.errors import UserError
from selfplay.examine import Subject, examine, table
from selfplay.folders import is_free
from selfplay.models import ModelConfig, Tokenizer, forward, init_params, logits, printable_ascii, save
from selfplay.models.decoder import Params
from selfplay.streams import Stream, python_seed, stream_key
from selfplay.templates import plain

Example = tuple[np.ndarray, int]
"""Ids [n] with the end token, and how many of them are the prompt's."""
BLOCK = 4096
"""Examples after which they come again, where there is more than one pass."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What one environment contributes to the pretraining mixture."""

    env: str = ""
    """The environment; none = the source's own name."""
    weight: float = 1.0
    """Share of the examples."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Passed to the environment; widen its sizes here."""
    modes: tuple[str, ...] = ()
    """Task modes, in turn; none = the environment's first."""
    difficulties: Mapping[str, float] = field(default_factory=lambda: {"1": 1.0})
    """Weights of the solve examples by difficulty."""
    proposals: float = 0.2
    """Share of this source's examples that are proposals."""
    propose_difficulties: Mapping[str, float] = field(default_factory=dict)
    """Weights of the proposals by difficulty; none = as the solve examples."""
    shown: int = 0
    """Most other tasks that an ask shows; how many is drawn uniformly."""


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Architecture, mixture and optimisation of a pretraining."""

    seed: int = 0
    layers: int = 3
    width: int = 128
    heads: int = 4
    kv_heads: int = 2
    inner: int = 256
    """Width of the gated MLP."""
    max_positions: int = 512
    vocab_size: int = 128
    steps: int = 3500
    passes: int = 1
    """How often each example is learnt from: drawing one can cost as much as learning from it."""
    rows: int = 16
    """Packed rows a step, B."""
    row_tokens: int = 96
    """Tokens a row, T."""
    learning_rate: float = 2e-3
    """Peak of a linear warm-up and cosine decay to a tenth."""
    warmup_steps: int = 100
    weight_decay: float = 0.05
    sources: Mapping[str, Source] = field(default_factory=dict)
    """The mixture, by name."""

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "kv_heads", "steps", "passes", "rows", "row_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"pretrain: {name} must be >= 1, got {getattr(self, name)}")
        if self.width % self.heads:
            raise UserError(f"pretrain: width must be a multiple of heads, got {self.width} and {self.heads}")
        if not 0 <= self.warmup_steps < self.steps:
            raise UserError(f"pretrain: warmup_steps must be in 0..steps - 1, got {self.warmup_steps} of {self.steps}")


def examples(config: Pretrain, tokenizer: Tokenizer) -> Iterator[Example]:
    """An endless stream of examples, all from train splits."""
    names = list(config.sources)
    envs = {name: make(source.env or name, **source.options) for name, source in config.sources.items()}
    rng = random.Random(python_seed(config.seed, Stream.INIT, 1))
    index = 0
    while True:
        name = rng.choices(names, [config.sources[n].weight for n in names])[0]
        source, env = config.sources[name], envs[name]
        is_proposal = rng.random() < source.proposals
        weights = (source.propose_difficulties if is_proposal else {}) or source.difficulties
        others = rng.randint(0, source.shown) if is_proposal and source.shown else 0
        sizes = [int(d) for d in rng.choices(list(weights), list(weights.values()), k=1 + others)]
        modes = source.modes or env.spec.modes[:1]
        mode = modes[index % len(modes)]
        task, *shown = (
            env.task("train", index + i, config.seed, mode=mode, difficulty=size) for i, size in enumerate(sizes)
        )
        index += len(sizes)
        prompt, answer = _proposal(env, task, shown) if is_proposal else _solution(env, task)
        head = tokenizer.prompt(prompt)
        ids = np.concatenate([head, tokenizer.encode(answer), [tokenizer.eos_id]]).astype(np.int32)
        if len(ids) > config.row_tokens:
            raise UserError(
                f"pretrain: an example of {name} difficulty {sizes[0]} has {len(ids)} tokens, "
                f"more than row_tokens = {config.row_tokens}"
            )
        yield ids, len(head)


def passed(stream: Iterator[Example], passes: int, seed: int) -> Iterator[Example]:
    """The stream in blocks, each of which comes `passes` times, in another order every time; once = as it is."""
    if passes == 1:
        yield from stream
        return
    rng = random.Random(python_seed(seed, Stream.INIT, 2))
    while block := list(islice(stream, BLOCK)):
        for _ in range(passes):
            rng.shuffle(block)
            yield from block


def _proposal(env: Env, task: Task, shown: Sequence[Task]) -> tuple[str, str]:
    """An ask that shows some tasks, and the proposal of another."""
    if not isinstance(env, Proposable):
        raise UserError(f"pretrain: environment {env.spec.name} takes no proposals: set proposals = 0")
    return plain(env.ask(task.mode, shown, task.seed)), env.offer(task)


def _solution(env: Env, task: Task) -> tuple[str, str]:
    """A task's prompt and its gold answer."""
    gold = env.gold(task) if isinstance(env, Verifiable) else None
    if gold is None:
        raise UserError(f"pretrain: environment {env.spec.name} gives no gold answer for {task.key}")
    return plain(task.prompt), gold


def batches(config: Pretrain, tokenizer: Tokenizer) -> Iterator[dict[str, np.ndarray]]:
    """Examples packed into rows in the order they come; `targets` are the next ids, -1 where nothing is learnt."""
    stream = passed(examples(config, tokenizer), config.passes, config.seed)
    carried: Example | None = None
    while True:
        ids = np.zeros((config.rows, config.row_tokens), np.int32)
        positions, segments = np.zeros_like(ids), np.zeros_like(ids)
        targets = np.full_like(ids, -1)
        for row in range(config.rows):
            used, segment = 0, 0
            while True:
                example = carried or next(stream)
                own, prompt = example
                if used + len(own) > config.row_tokens:
                    carried = example
                    break
                carried = None
                segment += 1
                place = slice(used, used + len(own))
                ids[row, place], segments[row, place] = own, segment
                positions[row, place] = np.arange(len(own))
                targets[row, used + prompt - 1 : used + len(own) - 1] = own[prompt:]
                used += len(own)
        yield {"ids": ids, "positions": positions, "segments": segments, "targets": targets}


def nll(config: ModelConfig, params: Params, batch: Mapping[str, jax.Array]) -> jax.Array:
    """Mean negative log-likelihood (nats) of the answer tokens."""
    hidden = forward(config, params, batch["ids"], batch["positions"], batch["segments"])  # [B T D]
    logprobs = jax.nn.log_softmax(logits(config, params, hidden))  # [B T V]
    own = jnp.take_along_axis(logprobs, jnp.maximum(batch["targets"], 0)[..., None], -1)[..., 0]
    mask = batch["targets"] >= 0
    return -jnp.sum(own * mask) / jnp.sum(mask)


def optimizer(config: Pretrain) -> optax.GradientTransformation:
    """AdamW with clipping, linear warm-up and cosine decay."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, config.warmup_steps, config.steps, config.learning_rate / 10
    )
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=config.weight_decay))


def pretrain(config: Pretrain, *, log: Any = print) -> tuple[ModelConfig, Params, Tokenizer, dict[str, float]]:
    """Train from a random start; returns the model and what it cost (steps, tokens, FLOPs, seconds)."""
    if not config.sources:
        raise UserError("pretrain: no sources: name at least one environment")
    tokenizer = printable_ascii(vocab_size=config.vocab_size, model_max_length=config.max_positions)
    model = ModelConfig(
        family="qwen3",
        vocab_size=config.vocab_size,
        hidden_size=config.width,
        layers=config.layers,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.width // config.heads,
        intermediate_size=config.inner,
        qk_norm=True,
        max_positions=config.max_positions,
        eos_ids=(tokenizer.eos_id,),
        bos_id=tokenizer.bos_id,
        pad_id=tokenizer.pad_id,
    )
    params = init_params(model, stream_key(config.seed, Stream.INIT))
    tx = optimizer(config)
    opt_state = tx.init(params)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Params, opt_state: Any, batch: Any) -> tuple[Params, Any, jax.Array]:
        loss, grads = jax.value_and_grad(partial(nll, model))(params, batch)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    began, tokens = time.monotonic(), 0
    for i, batch in zip(range(config.steps), batches(config, tokenizer), strict=False):
        tokens += int((batch["segments"] > 0).sum())
        params, opt_state, loss = step(params, opt_state, batch)
        if (i + 1) % 100 == 0 or i + 1 == config.steps:
            log(f"step {i + 1}/{config.steps}  loss {float(loss):.4f} nats  {time.monotonic() - began:.0f} s")
    count = sum(x.size for x in jax.tree.leaves(params))
    cost = {"parameters": count, "tokens": tokens, "flops": 6.0 * count * tokens, "seconds": time.monotonic() - began}
    return model, params, tokenizer, cost


CARD_TASKS = 512
"""Held-out tasks a difficulty that the model card reports, spread over the modes that are named."""


def read_settings(path: Path | None, overrides: Mapping[str, Any]) -> Pretrain:
    """The settings of a TOML file (None = those of the embedded model), with some fields replaced."""
    source = path or Path(str(resources.files("selfplay"))) / "recipes" / "pretrain" / "tiny.toml"
    try:
        text = tomllib.loads(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{source}: not readable as TOML ({error})") from error
    return tree.build(Pretrain, {**text, **overrides})


def pretrain_command(settings: Path | None, out: Path, **overrides: Any) -> None:
    """`selfplay pretrain`: train, score on held-out tasks, and write a model folder with its card.

    Raises:
      UserError: the folder is taken (a model is never replaced), or a setting cannot be used.
    """
    config = read_settings(settings, overrides)
    if not is_free(out):
        raise UserError(f"{out} exists already: a pretraining is a new folder, never a replacement")
    model, params, tokenizer, cost = pretrain(config, log=partial(print, flush=True))
    with tempfile.TemporaryDirectory() as scratch:
        save(Path(scratch) / "model", model, params, tokenizer)
        scored = held_out_scores(config, Path(scratch) / "model", params)
    print(scored)
    save(
        out,
        model,
        params,
        tokenizer,
        extra={"README.md": card(config, cost, scored), "pretrain.toml": settings_text(config)},
    )
    print(f"wrote {out}")


def held_out_scores(config: Pretrain, folder: Path, params: Params) -> str:
    """A table of test pass@k by difficulty, and by mode where they are named; each environment as it was trained in."""
    sizes = {"digits", "terms"}  # options that widen what is trained on; the card scores the default sizes
    columns: dict[str, dict[str, EnvChoice]] = {}
    for name, source in config.sources.items():
        for mode in (source.modes or ("",)) if source.proposals < 1 else ():
            options = {k: v for k, v in source.options.items() if k not in sizes}
            choice = EnvChoice(modes=(mode,) if mode else (), options=options)
            columns.setdefault(mode or "base", {})[source.env or name] = choice
    subject, run, tasks = Subject("base", str(folder), params), recipe.resolve("quickstart"), CARD_TASKS // len(columns)
    scored = {
        column: examine(subject, replace(run, envs=choices), tasks=tasks, samples=4)
        for column, choices in columns.items()
    }
    return table(scored, samples=4, tasks=tasks)


def settings_text(config: Pretrain) -> str:
    """The settings as TOML, which `selfplay pretrain` reads back to the same pretraining."""
    return tree.dump_toml(tree.plain(config))


def card(config: Pretrain, cost: Mapping[str, float], scored: str) -> str:
    """The model card: what it is, how it was made, what it cost, and how it scores."""
    threads = os.environ.get("NPROC", "1")
    trained = sorted({source.env or name for name, source in config.sources.items()})
    return f"""---
library_name: transformers
license: apache-2.0
---
# A tiny base model for self-play

A {config.layers}-layer decoder of the Qwen 3 family, width {config.width}, {int(cost["parameters"]):,} parameters,
one token a printable ASCII character. It completes tasks of {", ".join(trained)} and proposes new ones. It is
good at small sizes, weak just beyond and near zero further out: a start for self-play, as a pretrained language model
is.

Made by `selfplay pretrain pretrain.toml --out DIR --threads {threads}`, with pretrain.toml beside this file, on train
splits only: {config.steps} steps, {int(cost["tokens"]):,} tokens, {cost["flops"] / 1e12:.1f} TFLOP,
{cost["seconds"] / 60:.0f} minutes on CPU. The same bits need the same thread count, processor features and jaxlib.

## Held-out scores (test split, temperature 1)

{scored}
"""
