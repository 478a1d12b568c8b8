"""How experience changes the weights: loss, optimizer, KL, critic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from selfplay.config.bounds import ROLES, check
from selfplay.errors import UserError

LossName = Literal["reinforce", "ppo", "nll", "logistic"]
Denominator = Literal["active_tokens", "active_sequences", "planned_sequences", "planned_sequences_x_max_tokens"]
KlPlace = Literal["none", "reward", "loss"]
KlEstimator = Literal["k1", "k2", "k3", "full"]
KlReference = Literal["base", "previous_generation"]
CriticKind = Literal["none", "shared", "separate"]
Filter = Literal["nonzero_advantage", "solved_only", "none"]
Decay = Literal["none", "linear"]
Begin = Literal["newest", "base"]
Remat = Literal["none", "block"]
Target = Literal["q", "k", "v", "o", "gate", "up", "down"]


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters in place of full fine-tuning, arXiv:2106.09685."""

    rank: int = 0
    """Width of an adapter; 0 = none: all weights are trained."""
    alpha: float = 32.0
    """An adapter counts alpha / rank times."""
    targets: tuple[Target, ...] = get_args(Target)
    """Matrices of every layer that get one."""

    def __post_init__(self) -> None:
        check(self.rank >= 0, "policies.NAME.lora.rank", ">= 0", self.rank)
        check(self.alpha > 0, "policies.NAME.lora.alpha", "> 0", self.alpha)
        distinct = 0 < len(set(self.targets)) == len(self.targets)
        check(distinct, "policies.NAME.lora.targets", "at least one, without repeats", self.targets)

    @property
    def factor(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank


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
            check(role in ROLES, "update.kl.coef", f"by role: {', '.join(ROLES)}", role)
            check(coef >= 0, f"update.kl.coef.{role}", ">= 0", coef)

    @property
    def roles(self) -> tuple[str, ...]:
        """Whose KL is taken: roles with a coefficient, or all where none has one (to be looked at)."""
        return tuple(role for role, coef in self.coef.items() if coef > 0) or ROLES


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
        check(self.vf_coef >= 0, "update.critic.vf_coef", ">= 0", self.vf_coef)
        check(self.learning_rate > 0, "update.critic.learning_rate", "> 0", self.learning_rate)
        check(self.warmup_steps >= 0, "update.critic.warmup_steps", ">= 0", self.warmup_steps)


@dataclass(frozen=True, kw_only=True)
class Update:
    """How a step's experience changes the weights."""

    loss: LossName = "ppo"
    """reinforce, ppo (clipped ratio), nll (likelihood of what the filter kept), logistic (pairs of sequences)."""
    beta: float = 0.1
    """Of loss = logistic: factor on the log-ratios."""
    begin: Begin = "newest"
    """Which weights a generation's training starts from: the newest, or the base again, its optimizer too."""
    band: tuple[float, float] = (0.0, 1.0)
    """Tasks whose solve rate (by roles.solve.judge) lies outside teach the solver nothing."""
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
    entropy_floor: float = 1.0
    """Share of entropy_coef that is left at the end of the schedule; it falls linearly, as decay does."""
    kl: Kl = field(default_factory=Kl)
    """Pull towards a reference."""
    critic: Critic = field(default_factory=Critic)
    """Value function."""
    micro_rows: int = 4
    """Packed rows a device computes at a time; 0 = the whole minibatch. Changes memory and speed, and the numbers by
    rounding only."""
    remat: Remat = "none"
    """What a backward pass computes again in place of keeping: block = the inside of every decoder block: less memory
    for about a third more compute (expected of accelerators; a CPU's compiler keeps what it computed). Changes the
    numbers by rounding only."""
    logit_chunk: int = 512
    """Positions whose logits (one number a token of the vocabulary) a device holds at a time; only positions that the
    policy chose are computed. 0 = all at once. Changes memory and speed, and the numbers by rounding only."""
    row_tokens: int = 128
    """Tokens T that a packed row reads, of each trajectory all but the last; raised to the next multiple of 64 that
    holds the longest one where needed."""
    shared_prefix: bool = True
    """Compute a prompt that several attempts in a row share once: row_tokens must hold the prompt and some of its
    attempts (a row as short as the longest trajectory holds one). The numbers change by rounding only."""
    interference_every: int = 10
    """Every so many steps the gradients of the roles are compared; 0 = never."""

    def __post_init__(self) -> None:
        for name in (
            "clip_eps",
            "clip_eps_high",
            "learning_rate",
            "max_grad_norm",
            "importance_cap",
            "adam_eps",
            "beta",
        ):
            check(getattr(self, name) > 0, f"update.{name}", "> 0", getattr(self, name))
        for name in ("epochs", "minibatches", "row_tokens"):
            check(getattr(self, name) >= 1, f"update.{name}", ">= 1", getattr(self, name))
        for name in ("warmup_steps", "weight_decay", "entropy_coef", "micro_rows", "logit_chunk", "interference_every"):
            check(getattr(self, name) >= 0, f"update.{name}", ">= 0", getattr(self, name))
        check(0 <= self.band[0] <= self.band[1] <= 1, "update.band", "0 <= low <= high <= 1", self.band)
        check(0 < self.decay_floor <= 1, "update.decay_floor", "in (0, 1]", self.decay_floor)
        check(0 <= self.entropy_floor <= 1, "update.entropy_floor", "in [0, 1]", self.entropy_floor)
        for name in ("beta1", "beta2"):
            check(0 <= getattr(self, name) < 1, f"update.{name}", "in [0, 1)", getattr(self, name))
        if self.loss == "reinforce" and self.epochs * self.minibatches > 1:
            raise UserError(
                "update.loss = reinforce is on-policy: one optimizer step a batch (update.epochs = 1 and "
                f"update.minibatches = 1), got {self.epochs} x {self.minibatches}; use ppo for more"
            )
