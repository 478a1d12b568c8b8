"""Every metric's name and unit, in one place; docs/metrics.md says what each means and what is healthy.

A part in angle brackets stands for a value of that kind: `reward/<role>` is `reward/propose` and `reward/solve`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from envs.base import REASONS, SPLITS, STATUSES
from selfplay.errors import nearest
from selfplay.metrics.alarms import ALARMS
from selfplay.records import ROLES

METRICS: dict[str, str] = {
    # progress
    "progress/tokens": "tokens",
    "progress/episodes": "episodes",
    "progress/minutes": "minutes",
    "progress/roll_backs": "roll-backs",
    "archive/size": "tasks",
    "archive/mastered": "tasks",
    "archive/impossible": "tasks",
    "archive/unstable": "tasks",
    "archive/clusters": "clusters",
    "archive/largest_cluster_frac": "share",
    # experience, by role and environment
    "reward/<role>": "reward",
    "reward/part/<name>": "reward",
    "solve_rate/<env>": "share",
    "outcome/<status>": "share",
    "length/<role>": "tokens",
    "truncated_frac/<role>": "share",
    # what the proposer asks
    "propose/valid_frac": "share",
    "propose/leaked_frac": "share",
    "propose/reject/<reason>": "share",
    "propose/learnability": "share",
    "propose/unique_frac": "share",
    "propose/largest_cluster_frac": "share",
    "propose/novel_frac": "share",
    "propose/novel_shape_frac": "share",
    "propose/novel_cluster_frac": "share",
    "propose/difficulty_mean": "difficulty",
    "propose/difficulty_share/<env>/<difficulty>": "share",
    "curriculum/p_zero_frac": "share",
    "curriculum/p_band_frac": "share",
    "curriculum/p_one_frac": "share",
    "curriculum/solver_difficulty_at_half": "difficulty",
    "curriculum/proposed_difficulty_mean": "difficulty",
    # votes, retries, memory
    "vote/share": "share",
    "vote/label_accuracy": "share",
    "vote/excess": "share",
    "retry/tasks": "tasks",
    "retry/solve_rate": "share",
    "memory/lessons": "lessons",
    # credit
    "group/zero_adv_frac": "share",
    "group/masked_frac": "share",
    "advantage/<role>_std": "reward",
    "baseline/<key>": "reward",
    # update
    "policy/loss": "loss",
    "policy/entropy": "nats/token",
    "policy/entropy/<role>": "nats/token",
    "policy/approx_kl": "nats/token",
    "policy/clip_frac": "share",
    "policy/clip_frac_low": "share",
    "policy/clip_frac_high": "share",
    "policy/grad_norm": "norm",
    "policy/ref_kl": "nats/token",
    "optim/lr": "step size",
    "mismatch/logp_absdiff_mean": "nats",
    "mismatch/logp_absdiff_max": "nats",
    "mismatch/ess": "share",
    "mismatch/cap_frac": "share",
    "update/skipped": "optimizer steps",
    "update/nonfinite": "optimizer steps",
    "update/distinct_frac": "share",
    "critic/loss": "reward²",
    "critic/grad_norm": "norm",
    "critic/explained_variance/<role>": "share",
    "grad_norm/<role>": "norm",
    "grad_cosine/propose_solve": "cosine",
    # machinery
    "async/staleness_mean": "versions",
    "async/dropped": "groups",
    "time/acquire": "s",
    "time/sample": "s",
    "time/verify": "s",
    "time/refine": "s",
    "time/update": "s",
    "time/publish": "s",
    "time/evaluate": "s",
    "time/checkpoint": "s",
    "time/step": "s",
    "perf/tokens_per_s": "tokens/s",
    "perf/compilations": "programs",
    # evaluation and objective, one object a generation
    "eval/<split>/<env>/<difficulty>/pass@<k>": "share",
    "eval/<split>/<env>/pass@<k>": "share",
    "eval/<split>/<env>/<difficulty>/tasks": "tasks",
    "eval/base/<env>/<difficulty>/pass@1": "share",
    "game/<env>/nash_conv": "payoff",
    "game/<env>/nash_conv_average": "payoff",
    "game/<env>/nash_conv_legal": "payoff",
    "game/<env>/value": "payoff",
    "game/<env>/illegal_mass": "share",
    "game/<env>/illegal_mass_max": "share",
    "game/<env>/illegal_rate": "share",
    "game/<env>/moves": "moves",
    "game/<env>/<seat>_reward": "reward",
    "game/<env>/<seat>_win": "share",
    "game/<env>/<seat>_draw": "share",
    "game/<env>/elo": "Elo points",
    "game/<env>/elo_low": "Elo points",
    "game/<env>/elo_high": "Elo points",
    "game/<env>/cycles": "generations",
    "game/<env>/first_seat_gap": "reward",
    "game/<env>/vs_<opponent>/<seat>_<result>": "share",
    "game/<env>/vs_<opponent>/<seat>_payoff": "reward",
    "objective/<key>": "weight",
    # flags
    "alarm/<name>": "0 or 1",
}
"""Name pattern -> unit."""

BY_TOKENS: tuple[str, ...] = (
    "eval/<split>/<env>/<difficulty>/pass@<k>",
    "eval/<split>/<env>/pass@<k>",
    "curriculum/solver_difficulty_at_half",
    "reward/<role>",
    "solve_rate/<env>",
    "propose/learnability",
    "propose/difficulty_mean",
)
"""Curves that get a twin, `NAME_by_tokens`, whose x is sampled tokens instead of the learner step."""


def _one_of(values: Iterable[str]) -> str:
    return "(?:" + "|".join(re.escape(v) for v in values) + ")"


_PARTS = {
    "role": _one_of(ROLES),
    "status": _one_of(STATUSES),
    "reason": _one_of(REASONS),
    "split": _one_of(SPLITS),
    "env": "[^/]+",
    "difficulty": r"-?\d+",
    "k": r"\d+",
    "key": ".+",
    "opponent": "[^/]+",
    "seat": _one_of(("first", "second")),
    "result": _one_of(("win", "draw", "loss")),
}


def to_regex(pattern: str) -> str:
    """The anchored regular expression of a name pattern, as TensorBoard's layout and our checks use it."""
    parts = dict(_PARTS, name=_one_of(ALARMS) if pattern.startswith("alarm/") else "[^/]+")
    pieces = re.split(r"<(\w+)>", pattern)
    return "^" + "".join(parts[p] if i % 2 else re.escape(p) for i, p in enumerate(pieces)) + "$"


_KNOWN = re.compile("|".join(to_regex(p) for p in METRICS))
_TWINNED = re.compile("|".join(to_regex(p) for p in BY_TOKENS))


@lru_cache(maxsize=4096)
def known(name: str) -> bool:
    """Whether a name is declared in METRICS."""
    return _KNOWN.fullmatch(name) is not None


@lru_cache(maxsize=4096)
def has_twin(name: str) -> bool:
    """Whether a curve is also drawn over sampled tokens."""
    return _TWINNED.fullmatch(name) is not None


def check_names(names: Iterable[str]) -> None:
    """Refuse a name that docs/metrics.md does not explain.

    Raises:
      ValueError: naming the first unknown one.
    """
    for name in names:
        if not known(name):
            raise ValueError(f"metric {name!r} is not declared in metrics.names.METRICS; {nearest(name, METRICS)}")
