"""What a task's record says of it: solve rate with its interval by solver version, and whether it still teaches."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from math import sqrt
from typing import Literal, get_args

import msgspec

from selfplay.config import Retire
from selfplay.records import PolicyRef, Trajectory

Standing = Literal["live", "mastered", "impossible", "unstable"]
STANDINGS: tuple[Standing, ...] = get_args(Standing)
"""The first still teaches; the others are retired."""

Z = 1.959964
"""Normal quantile of 95 %, two-sided."""


class Tally(msgspec.Struct, kw_only=True):
    """How one version of a solver fared on a task."""

    solver: PolicyRef
    attempts: int = 0
    """That the environment could judge."""
    solves: int = 0
    unjudged: int = 0
    """Attempts that the environment failed on (`env_error`)."""


def wilson(k: float, n: float, z: float = Z) -> tuple[float, float]:
    """The score interval of a rate of which k of n were seen, 95 % unless told otherwise; (0, 1) for n = 0.

    (k + z^2 / 2) / (n + z^2) -+ z / (n + z^2) * sqrt(k (n - k) / n + z^2 / 4)

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference". It holds k / n, stays
    within 0 and 1, and is a proper interval at k = 0 and k = n too, where most tasks of a curriculum lie.
    """
    if n == 0:
        return 0.0, 1.0
    centre, half = (k + z * z / 2) / (n + z * z), z / (n + z * z) * sqrt(k * (n - k) / n + z * z / 4)
    return (0.0 if k == 0 else centre - half), (1.0 if k == n else centre + half)


def pooled(tallies: Sequence[Tally]) -> tuple[int, int]:
    """Solves and judged attempts of all versions that are kept."""
    return sum(t.solves for t in tallies), sum(t.attempts for t in tallies)


def count(tallies: list[Tally], attempts: Sequence[Trajectory], *, versions: int) -> None:
    """Add attempts to the tallies of their solvers, oldest version first, and keep those of the newest versions.

    The same attempts give the same tallies in any order, and cut into any groups.
    """
    for attempt in attempts:
        tally = next((t for t in tallies if t.solver == attempt.policy), None)
        if tally is None:
            tally = Tally(solver=attempt.policy)
            insort(tallies, tally, key=_age)
        if attempt.verdict.status == "env_error":
            tally.unjudged += 1
        else:
            tally.attempts += 1
            tally.solves += attempt.verdict.status == "ok"
    del tallies[:-versions]


def standing(tallies: Sequence[Tally], retire: Retire) -> Standing:
    """Whether a task still teaches, by the interval of the kept versions together.

    unstable: the environment fails on a share of the attempts that is surely at least `retire.unstable`;
    mastered: the solve rate is surely at least `retire.mastered`; impossible: surely at most `retire.impossible`.
    """
    solves, attempts = pooled(tallies)
    unjudged = sum(t.unjudged for t in tallies)
    if wilson(unjudged, attempts + unjudged)[0] >= retire.unstable:
        return "unstable"
    low, high = wilson(solves, attempts)
    if low >= retire.mastered:
        return "mastered"
    return "impossible" if high <= retire.impossible else "live"


def _age(tally: Tally) -> tuple[int, str]:
    return tally.solver.version, tally.solver.policy
