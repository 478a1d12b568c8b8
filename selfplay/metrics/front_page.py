"""TensorBoard's front page (the Custom Scalars tab): the eight charts that tell how a run goes."""

from __future__ import annotations

from selfplay.metrics.names import to_regex

TITLE = "selfplay at a glance"

_CHARTS: dict[str, tuple[str, ...]] = {
    "1 test pass@1 by difficulty (flat lines: the base)": (
        "eval/test/<env>/<difficulty>/pass@1",
        "eval/base/<env>/<difficulty>/pass@1",
    ),
    "2 difficulty: solved half the time, and proposed": (
        "curriculum/solver_difficulty_at_half",
        "curriculum/proposed_difficulty_mean",
    ),
    "3 tasks nobody solves, in band, everybody solves": (
        "curriculum/p_zero_frac",
        "curriculum/p_band_frac",
        "curriculum/p_one_frac",
    ),
    "4 proposals: admitted, and why not": ("propose/valid_frac", "propose/reject/<reason>"),
    "5 variety of proposals": ("propose/unique_frac", "propose/largest_cluster_frac"),
    "6 entropy, length, truncation by role": (
        "policy/entropy",
        "policy/entropy/<role>",
        "length/<role>",
        "truncated_frac/<role>",
    ),
    "7 KL, ESS, log-prob mismatch, groups without signal": (
        "policy/approx_kl",
        "policy/ref_kl",
        "mismatch/ess",
        "mismatch/logp_absdiff_mean",
        "group/zero_adv_frac",
    ),
    "8 alarms": ("alarm/<name>",),
}

FRONT_PAGE: dict[str, tuple[str, ...]] = {
    title: tuple(to_regex(p) for p in patterns) for title, patterns in _CHARTS.items()
}
"""Chart title -> anchored regular expressions of its tags."""
