"""The whole configuration: one frozen tree, documented where it is declared.

A recipe is a TOML file over these defaults; the command line overrides any field of it. The docstring under a
field is its `--help`. Precedence: default < recipe < command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from selfplay.errors import UserError

Centre = Literal["none", "batch_mean", "group_mean", "leave_one_out", "ema", "critic"]
Scale = Literal["one", "batch_std", "group_std"]
Key = Literal["role", "env", "mode", "task", "parent", "seat", "opponent", "policy"]
Pay = Literal["learnability", "one_minus_p", "tent", "gauss", "in_band", "none"]
LossName = Literal["reinforce", "ppo", "nll"]
Denominator = Literal["active_tokens", "active_sequences", "planned_sequences", "planned_sequences_x_max_tokens"]
KlPlace = Literal["none", "reward", "loss"]
KlEstimator = Literal["k1", "k2", "k3", "full"]
KlReference = Literal["base", "previous_generation"]
CriticKind = Literal["none", "shared", "separate"]
Truncated = Literal["wrong", "mask", "penalty"]
Filter = Literal["nonzero_advantage", "solved_only", "none"]
Source = Literal["propose", "procedural", "replay", "yoked"]
Decay = Literal["none", "linear"]
Replay = Literal["uniform", "learnability"]
Follow = Literal["fixed", "dev", "train"]


def _check(ok: bool, name: str, allowed: str, value: object) -> None:
    if not ok:
        raise UserError(f"{name} must be {allowed}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long a run lasts. Every limit is looked at when a generation ends."""

    generations: int = 10
    """Generations to train; generation 0 is the untouched base."""
    steps_per_generation: int = 10
    """Learner steps in a generation."""
    max_tokens: int | None = None
    """Stop at the end of the generation in which this many tokens have been sampled, every role counted."""
    max_minutes: float | None = None
    """Stop at the end of the generation in which this much wall-clock time of training has passed."""

    def __post_init__(self) -> None:
        _check(self.generations >= 1, "schedule.generations", ">= 1", self.generations)
        _check(self.steps_per_generation >= 1, "schedule.steps_per_generation", ">= 1", self.steps_per_generation)
        _check(self.max_tokens is None or self.max_tokens > 0, "schedule.max_tokens", "> 0", self.max_tokens)
        _check(self.max_minutes is None or self.max_minutes > 0, "schedule.max_minutes", "> 0", self.max_minutes)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where actors run. No field here changes the numbers of a synchronous run, but `threads`."""

    actors: int | Literal["auto"] = "auto"
    """Actor processes; 0 = sample inside the learner's process; auto = 1 on CPU, 0 on an accelerator."""
    backend: Literal["local"] = "local"
    """How actor processes are started."""
    threads: int | Literal["auto"] = "auto"
    """CPU threads of each process; part of what fixes a run's bits. auto = the usable cores."""
    timeout_s: float = 600.0
    """Longest wait for one unit before the run ends with an error."""

    def __post_init__(self) -> None:
        _check(self.actors == "auto" or self.actors >= 0, "cluster.actors", "auto or >= 0", self.actors)
        _check(self.threads == "auto" or self.threads >= 1, "cluster.threads", "auto or >= 1", self.threads)
        _check(self.timeout_s > 0, "cluster.timeout_s", "> 0", self.timeout_s)


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """The learner's device mesh."""

    data: int = 1
    """Devices over which a batch is split, parameters whole."""
    fsdp: int = 1
    """Devices over which batch and parameters are split."""
    tensor: int = 1
    """Devices over which each layer's parameters are split."""

    def __post_init__(self) -> None:
        for name in ("data", "fsdp", "tensor"):
            _check(getattr(self, name) >= 1, f"mesh.{name}", ">= 1", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class Policy:
    """One set of weights."""

    model: str = "tiny"
    """`tiny` (the embedded model) or a Hugging Face folder."""
    template: Literal["plain"] = "plain"
    """How messages become tokens; plain = the texts, one after the other."""


@dataclass(frozen=True, kw_only=True)
class Credit:
    """A = (r - centre[key]) / scale[key], over the whole step before minibatching."""

    centre: Centre = "group_mean"
    """What is taken from the reward; `critic` = GAE."""
    scale: Scale = "one"
    """What it is divided by."""
    key: tuple[Key, ...] = ("task",)
    """Trajectories that share these fields are one group."""
    weighting: Literal["sequence", "token"] = "sequence"
    """Whether a centre or scale weighs every trajectory alike or by its tokens."""
    ddof: int = 0
    """Delta degrees of freedom of the standard deviation."""
    eps: float = 1e-6
    """Added to a standard deviation; one of exactly 0 gives A = 0."""
    ema_decay: float = 0.95
    """Of centre = ema: b <- decay b + (1 - decay) r, after use, in unit order, from 0."""
    gamma: float = 1.0
    """Discount a policy token, centre = critic only."""
    gae_lambda: float = 1.0
    """GAE's lambda, centre = critic only."""

    def __post_init__(self) -> None:
        _check(self.ddof in (0, 1), "credit.ddof", "0 or 1", self.ddof)
        _check(self.eps >= 0, "credit.eps", ">= 0", self.eps)
        _check(0 <= self.ema_decay < 1, "credit.ema_decay", "in [0, 1)", self.ema_decay)
        _check(0 < self.gamma <= 1, "credit.gamma", "in (0, 1]", self.gamma)
        _check(0 <= self.gae_lambda <= 1, "credit.gae_lambda", "in [0, 1]", self.gae_lambda)
        _check(len(set(self.key)) == len(self.key), "credit.key", "without repeats", self.key)


@dataclass(frozen=True, kw_only=True)
class RoleConfig:
    """How one role plays and learns."""

    policy: str = "main"
    """Name of the policy that plays it."""
    trainable: bool = True
    """False: its tokens never reach the loss, and it keeps playing as the base (version 0)."""
    loss_weight: float = 1.0
    """Factor on its part of the loss."""
    temperature: float = 1.0
    """Sampling temperature; the learner scores at the same one."""
    max_new_tokens: int | None = None
    """Longest completion; None = as the environment asks."""
    stop: tuple[str, ...] = ()
    """Texts that end a completion; the end-of-sequence token always does."""
    truncated: Truncated = "wrong"
    """What an answer cut off by its length is worth: wrong, masked out of the loss, or a penalty."""
    truncated_penalty: float = -0.5
    """Reward of truncated = penalty."""
    credit: Credit = field(default_factory=Credit)
    """How its rewards become advantages."""

    def __post_init__(self) -> None:
        _check(self.loss_weight >= 0, "roles.NAME.loss_weight", ">= 0", self.loss_weight)
        _check(self.temperature > 0, "roles.NAME.temperature", "> 0", self.temperature)
        _check(
            self.max_new_tokens is None or self.max_new_tokens >= 1,
            "roles.NAME.max_new_tokens",
            ">= 1",
            self.max_new_tokens,
        )


@dataclass(frozen=True, kw_only=True)
class EnvChoice:
    """One environment of the task mix."""

    weight: float = 1.0
    """Share of the units, before the objective's weights."""
    modes: tuple[str, ...] = ()
    """Modes used; none = all of the environment's."""
    difficulties: tuple[int, ...] = ()
    """Difficulties of procedural tasks and of evaluation; none = all of the environment's."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Passed to the environment."""

    def __post_init__(self) -> None:
        _check(self.weight >= 0, "envs.NAME.weight", ">= 0", self.weight)


@dataclass(frozen=True, kw_only=True)
class Propose:
    """How proposals are asked for and paid."""

    per_ask: int = 8
    """Sibling proposals that answer the same ask."""
    shown: int = 0
    """Earlier tasks that an ask shows, drawn from the archive."""
    pay: Pay = "learnability"
    """Pay of an admitted task as a function of its solve rate p, see docs/algorithms.md."""
    pay_scale: float = 1.0
    """Factor on the pay."""
    pay_at_zero: float = 0.0
    """Pay where no attempt solved it."""
    pay_at_one: float = 0.0
    """Pay where every attempt solved it."""
    unbiased: bool = False
    """Scale learnability by n / (n - 1), so that its mean over n attempts is 4 p (1 - p)."""
    band: tuple[float, float] = (0.2, 0.8)
    """Solve rates that pay = in_band rewards."""
    invalid: float = -0.5
    """Pay of a proposal that is not admitted (held-out hits are masked instead)."""
    repeat_by: Literal["task", "shape"] = "shape"
    """What counts as a copy: the same task, or the same shape (the environment's coarse bucket)."""
    repeat_penalty: float = 1.0
    """Times (copies in this step / proposals of the step), taken from the pay of every copy."""
    repeat_flat: float = 0.0
    """Taken from the pay of every proposal that has another copy in this step."""

    def __post_init__(self) -> None:
        _check(self.per_ask >= 1, "propose.per_ask", ">= 1", self.per_ask)
        _check(self.shown >= 0, "propose.shown", ">= 0", self.shown)
        _check(0 <= self.band[0] < self.band[1] <= 1, "propose.band", "0 <= low < high <= 1", self.band)
        _check(self.repeat_penalty >= 0, "propose.repeat_penalty", ">= 0", self.repeat_penalty)
        _check(self.repeat_flat >= 0, "propose.repeat_flat", ">= 0", self.repeat_flat)


@dataclass(frozen=True, kw_only=True)
class Acquire:
    """How experience is gathered in a learner step."""

    units: int = 2
    """Units a step: what actors share out. Part of what fixes a run's bits."""
    tasks_per_unit: int = 24
    """Proposals (or tasks) a unit."""
    group_size: int = 8
    """Attempts a task, G."""
    mix: Mapping[Source, float] = field(default_factory=lambda: {"propose": 1.0})
    """Where a unit's tasks come from, by weight: propose, procedural, replay (from the archive), yoked."""
    replay: Replay = "uniform"
    """Which tasks of the archive are replayed: all alike, or by 4 p (1 - p) of their last solve rate p."""
    yoked_run: str | None = None
    """The run whose admitted tasks are replayed, step by step; needed by mix.yoked."""
    min_valid: int | None = None
    """Fewest judged attempts for a group to count; None = half of group_size."""

    def __post_init__(self) -> None:
        _check(self.units >= 1, "acquire.units", ">= 1", self.units)
        _check(self.tasks_per_unit >= 1, "acquire.tasks_per_unit", ">= 1", self.tasks_per_unit)
        _check(self.group_size >= 1, "acquire.group_size", ">= 1", self.group_size)
        for name, weight in self.mix.items():
            _check(name in get_args(Source), "acquire.mix", f"over {', '.join(get_args(Source))}", name)
            _check(weight >= 0, f"acquire.mix.{name}", ">= 0", weight)
        _check(sum(self.mix.values()) > 0, "acquire.mix", "of positive weight in all", dict(self.mix))
        _check(
            self.min_valid is None or 1 <= self.min_valid <= self.group_size,
            "acquire.min_valid",
            "in 1..group_size",
            self.min_valid,
        )
        if self.mix.get("yoked", 0) > 0 and not self.yoked_run:
            raise UserError("acquire.mix.yoked needs acquire.yoked_run: the folder of the run whose tasks are replayed")


@dataclass(frozen=True, kw_only=True)
class Kl:
    """A pull towards a reference policy."""

    place: KlPlace = "none"
    """In the reward, in the loss, or nowhere."""
    estimator: KlEstimator = "k2"
    """k1 (reward only), k2, k3 (as a loss, its gradient is another objective's), full (over the vocabulary)."""
    reference: KlReference = "base"
    """Which policy it pulls towards."""
    coef: Mapping[str, float] = field(default_factory=lambda: {"propose": 0.0, "solve": 0.0})
    """Coefficient by role."""

    def __post_init__(self) -> None:
        if self.place == "loss" and self.estimator == "k1":
            raise UserError("update.kl.estimator k1 has zero expected gradient as a loss: use k2, k3 or full")
        if self.place == "reward" and self.estimator != "k1":
            raise UserError(f"update.kl.place = reward takes estimator k1, got {self.estimator!r}")
        for role, coef in self.coef.items():
            _check(role in ("propose", "solve"), "update.kl.coef", "by role: propose, solve", role)
            _check(coef >= 0, f"update.kl.coef.{role}", ">= 0", coef)

    @property
    def roles(self) -> tuple[str, ...]:
        """Whose KL is taken: roles with a coefficient, or both where none has one (to be looked at)."""
        return tuple(role for role, coef in self.coef.items() if coef > 0) or ("propose", "solve")


@dataclass(frozen=True, kw_only=True)
class Critic:
    """A value function for credit.centre = critic."""

    kind: CriticKind = "none"
    """shared = a head on the policy's trunk, separate = its own copy of the trunk and its own optimizer."""
    vf_coef: float = 0.5
    """Factor on the value loss of a shared trunk."""
    learning_rate: float = 3e-4
    """Of a separate critic."""
    warmup_steps: int = 0
    """First learner steps in which only the critic learns."""

    def __post_init__(self) -> None:
        _check(self.vf_coef >= 0, "update.critic.vf_coef", ">= 0", self.vf_coef)
        _check(self.learning_rate > 0, "update.critic.learning_rate", "> 0", self.learning_rate)
        _check(self.warmup_steps >= 0, "update.critic.warmup_steps", ">= 0", self.warmup_steps)


@dataclass(frozen=True, kw_only=True)
class Update:
    """How a step's experience changes the weights."""

    loss: LossName = "ppo"
    """reinforce, ppo (clipped ratio), nll (likelihood of what the filter kept)."""
    clip_eps: float = 0.2
    """PPO's lower clip."""
    clip_eps_high: float = 0.28
    """PPO's upper clip."""
    epochs: int = 1
    """Passes over a step's data."""
    minibatches: int = 2
    """Optimizer steps a pass."""
    denominator: Denominator = "planned_sequences"
    """What the policy loss is divided by, once, per role, over the optimizer minibatch."""
    filter: Filter = "nonzero_advantage"
    """Which trajectories reach the loss."""
    importance_cap: float = 2.0
    """c in stop-gradient(min(old / behaviour, c)), used where the two differ."""
    learning_rate: float = 1e-4
    """Adam's step size after warm-up."""
    warmup_steps: int = 10
    """Optimizer steps over which the learning rate rises linearly from 0."""
    decay: Decay = "none"
    """How the learning rate falls over the run; linear = to decay_floor of it at the end of the schedule (the last
    generation, or schedule.max_tokens where that comes first); a longer schedule on --resume raises it again."""
    decay_floor: float = 0.1
    """Share of the learning rate that is left at the end."""
    beta1: float = 0.9
    beta2: float = 0.99
    adam_eps: float = 1e-8
    weight_decay: float = 0.0
    """AdamW's decoupled decay."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this global norm."""
    entropy_coef: float = 0.0
    """Factor on the mean entropy (nats a token), added to the objective."""
    kl: Kl = field(default_factory=Kl)
    """Pull towards a reference."""
    critic: Critic = field(default_factory=Critic)
    """Value function."""
    micro_rows: int = 4
    """Packed rows a device computes at a time; 0 = the whole minibatch. Changes memory and speed, and the numbers by
    rounding only."""
    row_tokens: int = 128
    """Tokens T of a packed row; raised to the longest trajectory's next multiple of 64 where needed."""
    interference_every: int = 10
    """Every so many steps the gradients of the roles are compared; 0 = never."""

    def __post_init__(self) -> None:
        for name in ("clip_eps", "clip_eps_high", "learning_rate", "max_grad_norm", "importance_cap", "adam_eps"):
            _check(getattr(self, name) > 0, f"update.{name}", "> 0", getattr(self, name))
        for name in ("epochs", "minibatches", "row_tokens"):
            _check(getattr(self, name) >= 1, f"update.{name}", ">= 1", getattr(self, name))
        for name in ("warmup_steps", "weight_decay", "entropy_coef", "micro_rows", "interference_every"):
            _check(getattr(self, name) >= 0, f"update.{name}", ">= 0", getattr(self, name))
        _check(0 < self.decay_floor <= 1, "update.decay_floor", "in (0, 1]", self.decay_floor)
        for name in ("beta1", "beta2"):
            _check(0 <= getattr(self, name) < 1, f"update.{name}", "in [0, 1)", getattr(self, name))
        if self.loss == "reinforce" and self.epochs * self.minibatches > 1:
            raise UserError(
                "update.loss = reinforce is on-policy: one optimizer step a batch (update.epochs = 1 and "
                f"update.minibatches = 1), got {self.epochs} x {self.minibatches}; use ppo for more"
            )


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """How generations are measured, on `dev` (read by decisions) and `test` (reported only)."""

    tasks: int = 1024
    """Tasks of `test` a difficulty at the first and last generation."""
    tasks_between: int = 128
    """The same at the generations between, and the tasks of `dev` at every one."""
    every: int = 1
    """Evaluate every so many generations; the first and last always."""
    tasks_per_unit: int = 256
    """Tasks a unit."""
    temperature: float = 1.0
    """Sampling temperature of evaluation."""

    def __post_init__(self) -> None:
        for name in ("tasks", "tasks_between", "every", "tasks_per_unit"):
            _check(getattr(self, name) >= 1, f"evaluate.{name}", ">= 1", getattr(self, name))
        _check(self.temperature > 0, "evaluate.temperature", "> 0", self.temperature)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """How the next task mix is set: weights over (environment, mode, difficulty)."""

    follow: Follow = "dev"
    """fixed = uniform; dev = by the dev scores of the last evaluation; train = by solve rates met in training."""
    floor: float = 0.05
    """Least weight of any difficulty, relative to the mean weight; the rest follows 4 p (1 - p)."""
    ema_decay: float = 0.9
    """Of follow = train: how slowly the estimate of p moves, a step."""

    def __post_init__(self) -> None:
        _check(0 < self.floor <= 1, "objective.floor", "in (0, 1]", self.floor)
        _check(0 <= self.ema_decay < 1, "objective.ema_decay", "in [0, 1)", self.ema_decay)


@dataclass(frozen=True, kw_only=True)
class Archive:
    """What is remembered of past tasks."""

    capacity: int = 20000
    """Tasks kept; beyond it the ones seen longest ago go."""

    def __post_init__(self) -> None:
        _check(self.capacity >= 1, "archive.capacity", ">= 1", self.capacity)


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a run leaves on disk."""

    keep: int = 3
    """Newest generations kept with their weights; the base (0) is always kept."""
    samples_per_step: int = 2
    """Groups whose transcript goes to samples.jsonl, a step."""

    def __post_init__(self) -> None:
        _check(self.keep >= 1, "output.keep", ">= 1", self.keep)
        _check(self.samples_per_step >= 0, "output.samples_per_step", ">= 0", self.samples_per_step)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One self-play run."""

    recipe: str = "quickstart"
    """Name of the recipe that it started from."""
    seed: int = 0
    """Same seed, same recipe: the same bits."""
    schedule: Schedule = field(default_factory=Schedule)
    cluster: Cluster = field(default_factory=Cluster)
    mesh: Mesh = field(default_factory=Mesh)
    policies: Mapping[str, Policy] = field(default_factory=lambda: {"main": Policy()})
    roles: Mapping[str, RoleConfig] = field(
        default_factory=lambda: {"propose": RoleConfig(credit=Credit(key=("parent",))), "solve": RoleConfig()}
    )
    envs: Mapping[str, EnvChoice] = field(default_factory=lambda: {"chain": EnvChoice()})
    propose: Propose = field(default_factory=Propose)
    acquire: Acquire = field(default_factory=Acquire)
    update: Update = field(default_factory=Update)
    evaluate: Evaluate = field(default_factory=Evaluate)
    objective: Objective = field(default_factory=Objective)
    archive: Archive = field(default_factory=Archive)
    output: Output = field(default_factory=Output)

    def __post_init__(self) -> None:
        _check(0 <= self.seed < 2**31, "seed", "in 0..2^31-1", self.seed)
        _check(set(self.roles) == {"propose", "solve"}, "roles", "propose and solve", sorted(self.roles))
        _check(
            len(self.envs) >= 1 and sum(e.weight for e in self.envs.values()) > 0,
            "envs",
            "at least one with a weight above 0",
            sorted(self.envs),
        )
        for name, role in self.roles.items():
            if role.policy not in self.policies:
                raise UserError(f"roles.{name}.policy is {role.policy!r}; policies: {', '.join(sorted(self.policies))}")
            _check_credit(self, name, role)
        proposes = self.acquire.mix.get("propose", 0) > 0
        if proposes and self.acquire.tasks_per_unit % self.propose.per_ask:
            raise UserError(
                f"acquire.tasks_per_unit ({self.acquire.tasks_per_unit}) must be a multiple of "
                f"propose.per_ask ({self.propose.per_ask})"
            )
        if not any(r.trainable and (n == "solve" or proposes) for n, r in self.roles.items()):
            raise UserError("no role that plays is trainable: nothing would be learnt")


def _check_credit(run: Run, name: str, role: RoleConfig) -> None:
    """A group with one member under a group centre has advantage 0 for ever: refused at start."""
    credit = role.credit
    if credit.centre == "critic" and run.update.critic.kind == "none":
        raise UserError(f"roles.{name}.credit.centre = critic needs update.critic.kind = shared or separate")
    if not role.trainable or credit.centre not in ("group_mean", "leave_one_out"):
        return
    if name == "propose" and run.acquire.mix.get("propose", 0) > 0 and "parent" in credit.key:
        if run.propose.per_ask < 2:
            raise UserError(
                f"roles.propose.credit.centre = {credit.centre} over key parent needs propose.per_ask >= 2, got "
                f"{run.propose.per_ask}: proposals need siblings (or use centre batch_mean or ema)"
            )
    if name == "propose" and "task" in credit.key and run.acquire.mix.get("propose", 0) > 0:
        raise UserError("roles.propose.credit.key task leaves every proposal without siblings: use parent")
    if name == "solve" and "task" in credit.key and run.acquire.group_size < 2:
        raise UserError(
            f"roles.solve.credit.centre = {credit.centre} over key task needs acquire.group_size >= 2, "
            f"got {run.acquire.group_size}"
        )
