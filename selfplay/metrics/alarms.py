"""Alarms: 0 or 1 flags that say when a run is going wrong. They report; nothing acts on them here.

All but `forgetting` look at the means of the last WINDOW learner steps, so that one odd step rings nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np

Values = Mapping[str, float]

WINDOW = 5
"""Learner steps that a mean is taken over; before so many steps no alarm rings."""

ENTROPY_FLOOR = 0.02
TRIVIAL_P_ONE = 0.8
IMPOSSIBLE_P_ZERO = 0.8
LEAST_UNIQUE = 0.5
MOST_TRUNCATED = 0.2
MOST_ZERO_ADV = 0.9
MOST_MISMATCH = 0.05
LEAST_ESS = 0.5
MASTERED = 0.9
FORGOTTEN = 0.05


def _mean(recent: Sequence[Values], name: str) -> float:
    """Mean of a metric over the steps that have it; NaN (which no comparison passes) if none has."""
    found = [v[name] for v in recent if name in v and not np.isnan(v[name])]
    return float(np.mean(found)) if found else float("nan")


def _entropy_floor(recent: Sequence[Values]) -> bool:
    return _mean(recent, "policy/entropy") < ENTROPY_FLOOR


def _trivial_curriculum(recent: Sequence[Values]) -> bool:
    return _mean(recent, "curriculum/p_one_frac") > TRIVIAL_P_ONE


def _impossible_curriculum(recent: Sequence[Values]) -> bool:
    return _mean(recent, "curriculum/p_zero_frac") > IMPOSSIBLE_P_ZERO


def _diversity(recent: Sequence[Values]) -> bool:
    return _mean(recent, "propose/unique_frac") < LEAST_UNIQUE


def _truncation(recent: Sequence[Values]) -> bool:
    names = {n for values in recent for n in values if n.startswith("truncated_frac/")}
    return any(_mean(recent, n) > MOST_TRUNCATED for n in names)


def _zero_gradient(recent: Sequence[Values]) -> bool:
    return _mean(recent, "group/zero_adv_frac") > MOST_ZERO_ADV or _mean(recent, "policy/grad_norm") == 0.0


def _mismatch(recent: Sequence[Values]) -> bool:
    apart = _mean(recent, "mismatch/logp_absdiff_mean") > MOST_MISMATCH
    return apart or _mean(recent, "mismatch/ess") < LEAST_ESS


STEP_ALARMS: dict[str, Callable[[Sequence[Values]], bool]] = {
    "entropy_floor": _entropy_floor,
    "trivial_curriculum": _trivial_curriculum,
    "impossible_curriculum": _impossible_curriculum,
    "diversity": _diversity,
    "truncation": _truncation,
    "zero_gradient": _zero_gradient,
    "mismatch": _mismatch,
}
ALARMS: tuple[str, ...] = (*STEP_ALARMS, "forgetting")
"""Every alarm; `alarm/<name>` is its curve."""


def step_alarms(recent: Sequence[Values]) -> dict[str, float]:
    """The flags of a learner step, from the metrics of the last steps, this one last."""
    window = recent[-WINDOW:]
    ready = len(window) == WINDOW
    return {f"alarm/{name}": float(ready and rings(window)) for name, rings in STEP_ALARMS.items()}


_DEV = re.compile(r"^eval/dev/[^/]+/-?\d+/pass@1$")


def generation_alarms(history: Sequence[Values]) -> dict[str, float]:
    """`alarm/forgetting`: a mastered difficulty's dev pass@1 fell by more than FORGOTTEN below its best.

    Args:
      history: the metrics of every generation so far, the newest last.
    """
    *before, now = history
    best = {
        name: max((v[name] for v in before if not np.isnan(v.get(name, np.nan))), default=float("nan"))
        for name in now
        if _DEV.match(name)
    }
    fell = [name for name, top in best.items() if top >= MASTERED and now[name] < top - FORGOTTEN]
    return {"alarm/forgetting": float(bool(fell))}


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
