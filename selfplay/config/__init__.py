"""The whole configuration: one frozen tree, documented where it is declared.

A recipe is a TOML file over these defaults; the command line overrides any field of it. The docstring under a
field is its `--help`. Precedence: default < recipe < command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from selfplay.config.alarms import Action, Alarm, Alarms, Forgetting, Mismatch
from selfplay.config.bounds import ROLES, Role, check
from selfplay.config.experience import (
    Acquire,
    Centre,
    Constrain,
    Credit,
    Dtype,
    EnvChoice,
    Key,
    Modes,
    Pay,
    Plays,
    Policy,
    Propose,
    Replay,
    RoleConfig,
    Scale,
    Source,
    Template,
    TemplateKind,
    Truncated,
    Truth,
    Turns,
)
from selfplay.config.games import Learn, OpponentKind, Opponents
from selfplay.config.learning import (
    Begin,
    Critic,
    CriticKind,
    Decay,
    Denominator,
    Filter,
    Kl,
    KlEstimator,
    KlPlace,
    KlReference,
    Lora,
    LossName,
    Remat,
    Target,
    Update,
)
from selfplay.config.refining import Refine, RefinerName
from selfplay.config.running import (
    Archive,
    Cluster,
    Evaluate,
    Follow,
    Hosts,
    Mesh,
    Objective,
    Output,
    Retire,
    Schedule,
)
from selfplay.errors import UserError

__all__ = [
    "ROLES",
    "Acquire",
    "Action",
    "Alarm",
    "Alarms",
    "Archive",
    "Begin",
    "Centre",
    "Cluster",
    "Constrain",
    "Credit",
    "Critic",
    "CriticKind",
    "Decay",
    "Denominator",
    "Dtype",
    "EnvChoice",
    "Evaluate",
    "Filter",
    "Follow",
    "Forgetting",
    "Hosts",
    "Key",
    "Kl",
    "KlEstimator",
    "KlPlace",
    "KlReference",
    "Learn",
    "Lora",
    "LossName",
    "Mesh",
    "Mismatch",
    "Modes",
    "Objective",
    "OpponentKind",
    "Opponents",
    "Output",
    "Pay",
    "Plays",
    "Policy",
    "Propose",
    "Refine",
    "RefinerName",
    "Remat",
    "Replay",
    "Retire",
    "Role",
    "RoleConfig",
    "Run",
    "Scale",
    "Schedule",
    "Source",
    "Target",
    "Template",
    "TemplateKind",
    "Truncated",
    "Truth",
    "Turns",
    "Update",
]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One self-play run."""

    recipe: str = "quickstart"
    """Name of the recipe that it started from."""
    seed: int = 0
    """Same seed, same recipe: the same bits."""
    schedule: Schedule = field(default_factory=Schedule)
    cluster: Cluster = field(default_factory=Cluster)
    hosts: Hosts = field(default_factory=Hosts)
    mesh: Mesh = field(default_factory=Mesh)
    policies: Mapping[str, Policy] = field(default_factory=lambda: {"main": Policy()})
    roles: Mapping[str, RoleConfig] = field(default_factory=dict)
    envs: Mapping[str, EnvChoice] = field(default_factory=lambda: {"chain": EnvChoice()})
    propose: Propose = field(default_factory=Propose)
    acquire: Acquire = field(default_factory=Acquire)
    refine: Refine = field(default_factory=Refine)
    opponents: Opponents = field(default_factory=Opponents)
    update: Update = field(default_factory=Update)
    evaluate: Evaluate = field(default_factory=Evaluate)
    objective: Objective = field(default_factory=Objective)
    archive: Archive = field(default_factory=Archive)
    alarms: Alarms = field(default_factory=Alarms)
    output: Output = field(default_factory=Output)

    def __post_init__(self) -> None:
        check(0 <= self.seed < 2**31, "seed", "in 0..2^31-1", self.seed)
        check(set(self.roles) <= set(ROLES), "roles", f"among {', '.join(ROLES)}", sorted(self.roles))
        object.__setattr__(self, "roles", default_roles() | dict(self.roles))
        check(
            len(self.envs) >= 1 and sum(e.weight for e in self.envs.values()) > 0,
            "envs",
            "at least one with a weight above 0",
            sorted(self.envs),
        )
        late = [g for g in self.opponents.fixed if g >= self.schedule.generations]
        if self.opponents.drawn("fixed") and late:
            raise UserError(
                f"opponents.fixed: there is no generation {late[0]} to play against before the run's end "
                f"(schedule.generations = {self.schedule.generations})"
            )
        for name, role in self.roles.items():
            if role.policy not in self.policies:
                raise UserError(f"roles.{name}.policy is {role.policy!r}; policies: {', '.join(sorted(self.policies))}")
            _check_credit(self, name, role)
            if self.update.critic.kind == "separate" and self.policies[role.policy].lora.rank:
                raise UserError(
                    f"update.critic.kind = separate trains a second model whole: use shared, or "
                    f"policies.{role.policy}.lora.rank = 0"
                )
        proposes = self.acquire.mix.get("propose", 0) > 0
        if proposes and self.acquire.tasks_per_unit % self.propose.per_ask:
            raise UserError(
                f"acquire.tasks_per_unit ({self.acquire.tasks_per_unit}) must be a multiple of "
                f"propose.per_ask ({self.propose.per_ask})"
            )
        if not any(self.roles[name].trainable for name in self.playing) and self.refine.kind != "lessons":
            raise UserError("no role that plays is trainable: nothing would be learnt")
        _check_variants(self)

    @property
    def playing(self) -> tuple[str, ...]:
        """Roles that play in training."""
        proposes = self.acquire.mix.get("propose", 0) > 0
        return tuple(name for name in self.used_roles if proposes or name != "propose")

    @property
    def plays(self) -> bool:
        """Whether the run plays games."""
        return self.acquire.mix.get("play", 0) > 0

    @property
    def used_roles(self) -> tuple[Role, ...]:
        """The roles that the run gives to policies: of games, of tasks, or both."""
        solves = any(weight > 0 for source, weight in self.acquire.mix.items() if source != "play")
        return tuple(role for role in ROLES if (self.plays if role == "play" else solves))

    @property
    def trained_policies(self) -> list[str]:
        """Policies that some role trains."""
        return sorted({self.roles[role].policy for role in self.used_roles if self.roles[role].trainable})

    @property
    def main_role(self) -> Role:
        """The role by which the run's policy is known, evaluated and exported."""
        return "solve" if "solve" in self.used_roles else "play"


def default_roles() -> dict[str, RoleConfig]:
    """Every role as it is where nothing is said of it."""
    return {
        "propose": RoleConfig(credit=Credit(key=("parent",))),
        "solve": RoleConfig(),
        "play": RoleConfig(credit=Credit(centre="ema", key=("env", "seat"))),
    }


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
    if name in run.used_roles and name != "propose" and "task" in credit.key and run.acquire.group_size < 2:
        raise UserError(
            f"roles.{name}.credit.centre = {credit.centre} over key task needs acquire.group_size >= 2, "
            f"got {run.acquire.group_size}"
        )


def _check_variants(run: Run) -> None:
    """Refuse settings of the loop that contradict one another."""
    if run.refine.kind == "rationalise" and (run.update.loss != "nll" or run.update.kl.place != "none"):
        raise UserError(
            "refine.kind = rationalise learns after another prompt than was sampled after: it needs update.loss = nll "
            "and update.kl.place = none"
        )
    if run.refine.kind == "lessons" and run.policies[run.roles["solve"].policy].template.kind == "plain":
        raise UserError("refine.kind = lessons needs a template of kind text or chat: plain sets nothing apart")
    if (run.update.loss == "logistic") != (run.refine.kind == "demonstrate"):
        raise UserError("update.loss = logistic and refine.kind = demonstrate need each other: pairs and their loss")
    if run.update.loss == "logistic" and run.update.kl.reference != "previous_generation":
        raise UserError("update.loss = logistic scores its pairs by update.kl.reference = previous_generation")
    frozen = [name for name in run.schedule.turns if not run.roles[name].trainable]
    if frozen:
        raise UserError(f"schedule.turns gives {frozen[0]} steps to learn, but roles.{frozen[0]}.trainable is false")
    if run.roles["propose"].pay:
        raise UserError("roles.propose.pay: a proposal is paid by propose.pay, propose.invalid and propose.rejected")
    for name, role in run.roles.items():
        if role.constrain != "none" and name != "play":
            raise UserError(f"roles.{name}.constrain = {role.constrain}: only the turns of games have legal moves")
        if role.plays == "generation" and run.update.loss not in ("nll", "logistic"):
            raise UserError(
                f"roles.{name}.plays = generation samples with older weights than are trained: update.loss must be nll "
                f"or logistic, got {run.update.loss}"
            )
    if run.update.begin == "base" and any(
        r.trainable and r.plays == "newest" for n, r in run.roles.items() if n in run.playing
    ):
        raise UserError(
            "update.begin = base trains the base anew: every role that plays and learns needs plays = generation"
        )
    if run.acquire.group_size < 2 and any(role.judge == "vote" for role in run.roles.values()):
        raise UserError("judge = vote needs acquire.group_size >= 2: one answer is always its own majority")
