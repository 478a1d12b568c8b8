"""Alarms: 0 or 1 flags that say when a run is going wrong, and which of them ask for more than a curve.

All but `forgetting` look at the means of the last `alarms.window` learner steps, so that one odd step rings nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from selfplay.config import Action, Alarms
from selfplay.standing import wilson

Values = Mapping[str, float]


def _mean(recent: Sequence[Values], name: str) -> float:
    """Mean of a metric over the steps that have it; NaN (which no comparison passes) if none has."""
    found = [v[name] for v in recent if name in v and not np.isnan(v[name])]
    return float(np.mean(found)) if found else float("nan")


def _entropy_floor(recent: Sequence[Values], limits: Alarms, first: Values) -> bool:
    return _mean(recent, "policy/entropy") < limits.entropy_floor.limit


def _trivial_curriculum(recent: Sequence[Values], limits: Alarms, first: Values) -> bool:
    return _mean(recent, "curriculum/p_one_frac") > limits.trivial_curriculum.limit


def _impossible_curriculum(recent: Sequence[Values], limits: Alarms, first: Values) -> bool:
    return _mean(recent, "curriculum/p_zero_frac") > limits.impossible_curriculum.limit


def _diversity(recent: Sequence[Values], limits: Alarms, first: Values) -> bool:
    return _mean(recent, "propose/unique_frac") < limits.diversity.limit


def _clusters(recent: Sequence[Values], limits: Alarms, first: Values) -> bool:
    return _mean(recent, "propose/largest_cluster_frac") > limits.clusters.limit


def _rejection(recent: Sequence[Values], limits: Alarms, first: Values) -> bool:
    return _mean(recent, "propose/valid_frac") < limits.rejection.limit


def _length_collapse(recent: Sequence[Values], limits: Alarms, first: Values) -> bool:
    return _mean(recent, LENGTH) < limits.length_collapse.limit * first.get(LENGTH, float("nan"))


def _consensus(recent: Sequence[Values], limits: Alarms, first: Values) -> bool:
    return _mean(recent, "vote/excess") > limits.consensus.limit


def _truncation(recent: Sequence[Values], limits: Alarms, first: Values) -> bool:
    names = {n for values in recent for n in values if n.startswith("truncated_frac/")}
    return any(_mean(recent, n) > limits.truncation.limit for n in names)


def _zero_gradient(recent: Sequence[Values], limits: Alarms, first: Values) -> bool:
    flat = _mean(recent, "group/zero_adv_frac") > limits.zero_gradient.limit
    return flat or _mean(recent, "policy/grad_norm") == 0.0


def _mismatch(recent: Sequence[Values], limits: Alarms, first: Values) -> bool:
    apart = _mean(recent, "mismatch/logp_absdiff_mean") > limits.mismatch.limit
    return apart or _mean(recent, "mismatch/ess") < limits.mismatch.least_ess


STEP_ALARMS: dict[str, Callable[[Sequence[Values], Alarms, Values], bool]] = {
    "entropy_floor": _entropy_floor,
    "trivial_curriculum": _trivial_curriculum,
    "impossible_curriculum": _impossible_curriculum,
    "diversity": _diversity,
    "clusters": _clusters,
    "rejection": _rejection,
    "length_collapse": _length_collapse,
    "consensus": _consensus,
    "truncation": _truncation,
    "zero_gradient": _zero_gradient,
    "mismatch": _mismatch,
}
ALARMS: tuple[str, ...] = (*STEP_ALARMS, "forgetting")
"""Every alarm, each a field of config.Alarms; `alarm/<name>` is its curve."""

LENGTH = "length/solve"


def step_alarms(
    recent: Sequence[Values], limits: Alarms | None = None, first: Values | None = None
) -> dict[str, float]:
    """The flags of a learner step.

    Args:
      recent: the metrics of the last steps, this one last.
      first: means over the run's first `window` steps, for `length_collapse`.
    """
    limits = limits or Alarms()
    window = recent[-limits.window :]
    ready = len(window) == limits.window
    return {f"alarm/{name}": float(ready and rings(window, limits, first or {})) for name, rings in STEP_ALARMS.items()}


def first_means(steps: Sequence[Values], limits: Alarms) -> Values:
    """What `length_collapse` compares with: means over the run's first steps; empty before there are so many."""
    begun = steps[: limits.window]
    return {LENGTH: _mean(begun, LENGTH)} if len(begun) == limits.window else {}


def demanded(values: Values, limits: Alarms) -> tuple[str, Action] | None:
    """The alarm that rings and asks for the strongest action, and that action; None if none rings."""
    strength: tuple[Action, ...] = ("log", "stop", "roll_back")
    ringing = [name for name in ALARMS if values.get(f"alarm/{name}") == 1.0]
    if not ringing:
        return None
    name = max(ringing, key=lambda n: strength.index(limits.of(n).action))
    return name, limits.of(name).action


_DEV = re.compile(r"^eval/dev/[^/]+/-?\d+/pass@1$")


def generation_alarms(history: Sequence[Values], limits: Alarms | None = None) -> dict[str, float]:
    """`alarm/forgetting`: a mastered difficulty's dev pass@1 fell by more than the limit below its best, beyond chance.

    Beyond chance: the upper end of its 95 % Wilson interval, by its number of tasks, lies that low. (The best of
    several evaluations is a lucky one: without this, runs that forget nothing ring at 128 tasks.)

    Args:
      history: the metrics of every generation so far, the newest last.
    """
    bounds = (limits or Alarms()).forgetting
    *before, now = history
    best = {
        name: max((v[name] for v in before if not np.isnan(v.get(name, np.nan))), default=float("nan"))
        for name in now
        if _DEV.match(name)
    }
    fell = [name for name, top in best.items() if top >= bounds.mastered and _at_most(now, name) < top - bounds.limit]
    return {"alarm/forgetting": float(bool(fell))}


def _at_most(values: Values, name: str) -> float:
    """Upper end of the interval of a pass@1; the score itself where its number of tasks is not known."""
    score, tasks = values[name], values.get(name.replace("pass@1", "tasks"), float("nan"))
    return score if np.isnan(score) or np.isnan(tasks) else wilson(score * tasks, tasks)[1]


def difficulty_at_half(pass_at_1: Mapping[int, float]) -> float:
    """The difficulty at which pass@1 crosses one half on its way down, linearly interpolated.

    Above one half everywhere: the hardest difficulty; below everywhere: the easiest, both a bound
    and no estimate. Difficulties without a score (NaN) are left out; none left gives NaN.

    Args:
      pass_at_1: pass@1 by difficulty.
    """
    points = [(d, p) for d, p in sorted(pass_at_1.items()) if not np.isnan(p)]
    if not points:
        return float("nan")
    for (d0, p0), (d1, p1) in reversed(list(pairwise(points))):
        if p0 >= 0.5 > p1:
            return d0 + (p0 - 0.5) / (p0 - p1) * (d1 - d0)
    return float(points[-1][0] if points[-1][1] >= 0.5 else points[0][0])
