"""When each alarm rings, and what a run then does."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from selfplay.config.bounds import check

Action = Literal["log", "stop", "roll_back"]
"""What an alarm does, the strongest last."""


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """One alarm; what its limit bounds is in docs/metrics.md."""

    limit: float = 0.0
    """Rings beyond this."""
    action: Action = "log"
    """log = the curve and a line in log.txt; stop = end the run in good order; roll_back = return to the last
    generation before it rang, and go on from there with other draws."""


@dataclass(frozen=True, kw_only=True)
class Mismatch(Alarm):
    """Sampler and learner disagree about the policy."""

    limit: float = 0.05
    """Most mismatch/logp_absdiff_mean, nats."""
    action: Action = "log"
    """As of any alarm."""
    least_ess: float = 0.5
    """Least mismatch/ess."""


@dataclass(frozen=True, kw_only=True)
class Forgetting(Alarm):
    """A difficulty once mastered is so no more."""

    limit: float = 0.05
    """Most that dev pass@1 may lie below its best."""
    action: Action = "log"
    """As of any alarm."""
    mastered: float = 0.9
    """Best dev pass@1 from which a difficulty counts."""


def _alarm(limit: float) -> Alarm:
    return field(default_factory=lambda: Alarm(limit=limit))


@dataclass(frozen=True, kw_only=True)
class Alarms:
    """Thresholds over the means of the last `window` learner steps, and actions."""

    window: int = 5
    """Learner steps that a mean is taken over; before so many steps no alarm rings."""
    most_roll_backs: int = 3
    """An alarm that would roll back once more stops the run."""
    entropy_floor: Alarm = _alarm(0.02)
    """Least policy/entropy, nats a token."""
    trivial_curriculum: Alarm = _alarm(0.8)
    """Most curriculum/p_one_frac."""
    impossible_curriculum: Alarm = _alarm(0.8)
    """Most curriculum/p_zero_frac."""
    diversity: Alarm = _alarm(0.5)
    """Least propose/unique_frac."""
    clusters: Alarm = _alarm(0.8)
    """Most propose/largest_cluster_frac."""
    rejection: Alarm = _alarm(0.05)
    """Least propose/valid_frac."""
    length_collapse: Alarm = _alarm(0.25)
    """Least length/solve, as a share of that of the run's first steps."""
    consensus: Alarm = _alarm(0.3)
    """Most vote/excess: how far the share of the vote lies above the truth."""
    truncation: Alarm = _alarm(0.2)
    """Most truncated_frac of a role."""
    zero_gradient: Alarm = _alarm(0.9)
    """Most group/zero_adv_frac; a policy/grad_norm of exactly 0 rings too."""
    mismatch: Mismatch = field(default_factory=Mismatch)
    """Of sampler and learner."""
    forgetting: Forgetting = field(default_factory=Forgetting)
    """Of what was mastered."""

    def __post_init__(self) -> None:
        check(self.window >= 1, "alarms.window", ">= 1", self.window)
        check(self.most_roll_backs >= 0, "alarms.most_roll_backs", ">= 0", self.most_roll_backs)

    def of(self, name: str) -> Alarm:
        """The alarm of a name."""
        found: Alarm = getattr(self, name)
        return found

    @property
    def rolls_back(self) -> bool:
        """Whether some alarm may."""
        return any(isinstance(a := getattr(self, f.name), Alarm) and a.action == "roll_back" for f in fields(self))
