"""Who plays which role on which tasks, and what that is worth: policies, roles, credit, environments, proposals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from envs.base import Reason, Status
from selfplay.config.bounds import check
from selfplay.config.learning import Lora
from selfplay.errors import UserError

Centre = Literal["none", "batch_mean", "group_mean", "leave_one_out", "ema", "critic"]
Scale = Literal["one", "batch_std", "group_std"]
Key = Literal["role", "env", "mode", "task", "parent", "seat", "opponent", "policy"]
Pay = Literal["learnability", "one_minus_p", "tent", "gauss", "in_band", "none"]
Turns = Literal["terminal", "broadcast", "discounted"]
Truncated = Literal["wrong", "mask", "penalty"]
Source = Literal["propose", "procedural", "replay", "yoked", "play"]
Replay = Literal["uniform", "learnability"]
Modes = Literal["random", "in_turn"]
Truth = Literal["verifier", "vote"]
Plays = Literal["newest", "generation"]
Constrain = Literal["none", "legal"]
Dtype = Literal["float32", "bfloat16"]
Weights = Literal["pretrained", "random"]
TemplateKind = Literal["plain", "text", "chat"]


@dataclass(frozen=True, kw_only=True)
class Template:
    """How messages become the tokens that a policy reads, and its tokens a text again; see docs/templates.md."""

    kind: TemplateKind = "plain"
    """plain = the texts, one after the other; text = the formats below; chat = the tokenizer's own chat template."""
    system: str = "{text}\n"
    """Of kind = text: how a system message is written."""
    user: str = "Q: {text}\n"
    """Of kind = text: how a user's message is written."""
    assistant: str = "A: {text}\n"
    """Of kind = text: how an answer is written. A prompt ends with what stands before {text}, spaces at its end left
    to the model."""
    stop: tuple[str, ...] = ()
    """Texts that end a completion; none = what follows {text} in `assistant`."""
    examples: int = 0
    """Solved tasks (for a proposer: proposals) of the train split that are shown first: four-shot is 4."""
    example_difficulties: tuple[int, ...] = ()
    """Difficulties that examples are drawn from; none = that of the task asked, and all for a proposer."""
    example_shape: Literal["any", "same"] = "any"
    """same = to a solver, tasks of the asked one's shape (its operators, say) are shown, others where they run out."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of kind = chat: what the chat template is given besides the messages, such as enable_thinking = false."""
    think_open: str = "<think>"
    """Where thinking begins. It is taken out of an answer before the environment reads it (but by kind = plain)."""
    think_close: str = "</think>"
    """Where it ends; the empty text in either = thinking is left in."""

    def __post_init__(self) -> None:
        for name in ("system", "user", "assistant"):
            text = getattr(self, name)
            check(text.count("{text}") == 1, f"policies.NAME.template.{name}", "a text with {text} in it once", text)
        check(self.examples >= 0, "policies.NAME.template.examples", ">= 0", self.examples)
        check(all(self.stop), "policies.NAME.template.stop", "without empty texts", self.stop)
        if self.kind == "plain" and self.examples:
            raise UserError("policies.NAME.template.examples needs kind = text or chat: plain sets nothing apart")

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end a completion, by default those that the kind implies."""
        after = self.assistant.partition("{text}")[2] if self.kind == "text" else ""
        return self.stop or ((after,) if after else ())


@dataclass(frozen=True, kw_only=True)
class Policy:
    """One set of weights."""

    model: str = "auto"
    """`tiny`, `tiny-dsl` or `tiny-dsl-induce` (embedded), a Hugging Face folder, or a hub id such as Qwen/Qwen3-0.6B;
    auto = the embedded one that was pretrained on the run's first environment, `tiny` where none was."""
    weights: Weights = "pretrained"
    """random = drawn anew from the run's seed, in the model's shapes: for games that need no language."""
    dtype: Dtype = "float32"
    """Of weights as they are computed with, sampled from and published. What is trained is kept in float32."""
    lora: Lora = field(default_factory=Lora)
    """Train small matrices beside the model's own, which stay as they are."""
    template: Template = field(default_factory=Template)
    """How messages become tokens."""


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
    turns: Turns = "broadcast"
    """What each turn of a game gets. broadcast: the whole advantage, every turn; discounted: gamma^(turns to go) of it;
    terminal: the last turn alone. centre = critic: the reward so at the last token of each turn, and no turn sees
    beyond its end; but terminal: the reward at the very last token, and GAE over all turns."""
    gamma: float = 1.0
    """Discount a policy token of centre = critic, and a turn of turns = discounted."""
    gae_lambda: float = 1.0
    """GAE's lambda, centre = critic only."""

    def __post_init__(self) -> None:
        check(self.ddof in (0, 1), "credit.ddof", "0 or 1", self.ddof)
        check(self.eps >= 0, "credit.eps", ">= 0", self.eps)
        check(0 <= self.ema_decay < 1, "credit.ema_decay", "in [0, 1)", self.ema_decay)
        check(0 < self.gamma <= 1, "credit.gamma", "in (0, 1]", self.gamma)
        check(0 <= self.gae_lambda <= 1, "credit.gae_lambda", "in [0, 1]", self.gae_lambda)
        check(len(set(self.key)) == len(self.key), "credit.key", "without repeats", self.key)


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
    """Texts that end a completion, besides those of the policy's template and the model's end tokens."""
    constrain: Constrain = "none"
    """Of play: legal = a turn is drawn among its legal moves alone, token by token, and the learner scores it among the
    same candidates: no move is illegal, in training, evaluation or `selfplay play`."""
    plays: Plays = "newest"
    """Whose weights play it while it is trained: the newest, or those that the generation began with (g - 1)."""
    judge: Truth = "verifier"
    """What its pay is taken from. vote = no truth is asked: an attempt is paid 1 where its answer is the most common
    among its siblings', a proposal by the share of that answer in place of p (docs/algorithms.md)."""
    pay: Mapping[Status, float] = field(default_factory=dict)
    """Of solve: what an attempt with such a verdict is paid in place of its reward, such as {wrong = -0.5}."""
    truncated: Truncated = "wrong"
    """What a completion cut off by its length is worth: that of a wrong answer (an invalid proposal), nothing and no
    place in the loss (mask), or a penalty."""
    truncated_penalty: float = -0.5
    """Reward of truncated = penalty."""
    credit: Credit = field(default_factory=Credit)
    """How its rewards become advantages."""

    def __post_init__(self) -> None:
        check(self.loss_weight >= 0, "roles.NAME.loss_weight", ">= 0", self.loss_weight)
        check(self.temperature > 0, "roles.NAME.temperature", "> 0", self.temperature)
        check(
            self.max_new_tokens is None or self.max_new_tokens >= 1,
            "roles.NAME.max_new_tokens",
            ">= 1",
            self.max_new_tokens,
        )
        check(all(self.stop), "roles.NAME.stop", "without empty texts", self.stop)


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
        check(self.weight >= 0, "envs.NAME.weight", ">= 0", self.weight)


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
    rejected: Mapping[Reason, float] = field(default_factory=dict)
    """Pay of a proposal rejected for such a reason in place of `invalid`, such as {format = -1.0}."""
    leak: float = 0.0
    """Share of rejected proposals that become tasks all the same, unchecked (held-out ones never): 0 = the gate holds,
    1 = there is none. To study collapse; the environment must say what an unchecked task is (docs/environments.md)."""
    repeat_by: Literal["task", "shape"] = "shape"
    """What counts as a copy: the same task, or the same shape (the environment's coarse bucket)."""
    repeat_penalty: float = 1.0
    """Times (copies in this step / proposals of the step), taken from the pay of every copy."""
    repeat_flat: float = 0.0
    """Taken from the pay of every proposal that has another copy in this step."""

    def __post_init__(self) -> None:
        check(self.per_ask >= 1, "propose.per_ask", ">= 1", self.per_ask)
        check(self.shown >= 0, "propose.shown", ">= 0", self.shown)
        check(0 <= self.band[0] < self.band[1] <= 1, "propose.band", "0 <= low < high <= 1", self.band)
        check(0 <= self.leak <= 1, "propose.leak", "in [0, 1]", self.leak)
        check("held_out" not in self.rejected, "propose.rejected", "without held_out, which is masked", "held_out")
        check(self.repeat_penalty >= 0, "propose.repeat_penalty", ">= 0", self.repeat_penalty)
        check(self.repeat_flat >= 0, "propose.repeat_flat", ">= 0", self.repeat_flat)


@dataclass(frozen=True, kw_only=True)
class Acquire:
    """How experience is gathered in a learner step."""

    units: int = 2
    """Units a step: what actors share out. Part of what fixes a run's bits."""
    tasks_per_unit: int = 24
    """Proposals (or tasks, of a game deals) a unit."""
    group_size: int = 8
    """Attempts a task, or games a deal, G."""
    slots: int = 0
    """Rows of a unit that are decoded side by side (a multiple of 8); the others wait until one stops. 0 = all. For
    units of hundreds of rows of very unlike length (docs/performance.md). Part of what fixes a run's bits."""
    mix: Mapping[Source, float] = field(default_factory=lambda: {"propose": 1.0})
    """Where a unit's tasks come from, by weight: propose, procedural, replay (from the archive), yoked. An environment
    with several seats is played, whatever the weights: `play` says that the recipe plays games."""
    replay: Replay = "uniform"
    """Which tasks of the archive are replayed: all alike, or by 4 p (1 - p) of their last solve rate p."""
    yoked_run: str | None = None
    """The run whose admitted tasks are replayed, step by step; needed by mix.yoked."""
    modes: Modes = "random"
    """How a unit's mode is found: drawn, or the environment's modes in turn, the same number of units each."""
    min_valid: int | None = None
    """Fewest judged attempts for a group to count; None = half of group_size."""

    def __post_init__(self) -> None:
        check(self.units >= 1, "acquire.units", ">= 1", self.units)
        check(self.tasks_per_unit >= 1, "acquire.tasks_per_unit", ">= 1", self.tasks_per_unit)
        check(self.group_size >= 1, "acquire.group_size", ">= 1", self.group_size)
        check(self.slots >= 0 and self.slots % 8 == 0, "acquire.slots", "a multiple of 8, or 0", self.slots)
        for name, weight in self.mix.items():
            check(name in get_args(Source), "acquire.mix", f"over {', '.join(get_args(Source))}", name)
            check(weight >= 0, f"acquire.mix.{name}", ">= 0", weight)
        check(sum(self.mix.values()) > 0, "acquire.mix", "of positive weight in all", dict(self.mix))
        check(
            self.min_valid is None or 1 <= self.min_valid <= self.group_size,
            "acquire.min_valid",
            "in 1..group_size",
            self.min_valid,
        )
        if self.mix.get("yoked", 0) > 0 and not self.yoked_run:
            raise UserError("acquire.mix.yoked needs acquire.yoked_run: the folder of the run whose tasks are replayed")
