"""Runs beside each other at equal sampled tokens: table, paired differences with intervals, and a plot.

Letters: S paired seeds, D difficulties (of all environments), B bootstrap draws, X budgets along the plot.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from selfplay.config import Schedule
from selfplay.errors import UserError
from selfplay.folders import CONFIG
from selfplay.metrics import read_metrics
from selfplay.recipe import from_toml
from selfplay.tree import plain

DRAWS = 10_000
"""Bootstrap draws of an interval."""

METHOD = (
    "Interval: 95 %, percentiles of {draws:,} bootstrap draws over paired seeds, each with binomial noise from the "
    "number of test tasks of the two evaluations interpolated between. A run keeps no per-task results, so the noise "
    "is redrawn apart for each run though all meet the same tasks: the interval is wide rather than narrow."
)

_SCORE = re.compile(r"^eval/test/([^/]+)/(-?\d+)/pass@1$")
_SAME = re.compile(r"^(seed$|cluster\.|output\.|acquire\.yoked_run$|schedule\.)")
"""Fields that may differ between the runs of one group: the budget is cut equal afterwards."""

Test = tuple[str, int]
"""An environment and a difficulty."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a comparison needs of one finished run: E evaluations, D difficulties."""

    folder: Path
    recipe: str
    seed: int
    fields: Mapping[str, object]
    """The configuration, flat."""
    tests: tuple[Test, ...]
    """The D columns of `scores`, in order."""
    tokens: np.ndarray
    """[E] sampled tokens, every role, at each evaluation; the first is 0 (the base)."""
    scores: np.ndarray
    """[E, D] test pass@1."""
    counts: np.ndarray
    """[E, D] test tasks behind each score."""


def compare(runs: Sequence[Path], out: Path | None = None, tokens: float | None = None) -> str:
    """Compare runs of two or more recipes; the first run's recipe is the one whose lead is measured.

    Args:
      runs: finished run folders.
      out: folder for compare.md and, where matplotlib is installed, compare.png; None = write nothing.
      tokens: sampled tokens, every role, at which to compare; None = the smallest total among the runs.

    Returns:
      The table, in Markdown.

    Raises:
      UserError: a folder is no run, unfinished, measured on other tests than the first, or given twice; or a run has
        fewer tokens than asked.
    """
    if not runs:
        raise UserError("compare needs at least one run folder")
    groups = group_runs([read_run(folder) for folder in runs])
    shortest = min((run for group in groups.values() for run in group.values()), key=lambda run: run.tokens[-1])
    smallest = float(shortest.tokens[-1])
    if tokens is not None and not 0 < tokens <= smallest:
        raise UserError(f"--tokens must be from 1 to {smallest:,.0f}, the total of {shortest.folder}, got {tokens:,}")
    budget = smallest if tokens is None else float(tokens)
    text = _report(groups, budget, "asked for" if tokens is not None else "the smallest total among these runs")
    if out is None:
        return text
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: the results need a folder")
    out.mkdir(parents=True, exist_ok=True)
    (out / "compare.md").write_text(text, encoding="utf-8")
    if find_spec("matplotlib") is None:
        return text + "\nNo plot: it needs matplotlib (pip install 'selfplay[plot]').\n"
    from selfplay.compare_plot import draw

    draw(groups, budget, out / "compare.png")
    return text


def read_run(folder: Path) -> Finished:
    """Read one finished run.

    Raises:
      UserError: the folder is no run, or the run is unfinished or was never evaluated.
    """
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} is no run folder: it has no {CONFIG}")
    run = from_toml(folder / CONFIG)
    generations = read_metrics(folder, "generation")
    _check_finished(folder, run.schedule, generations)
    if run.main_role == "play":
        raise UserError(
            f"{folder} only plays games and has no held-out scores to compare; `selfplay evaluate {folder}` says how "
            "well it plays"
        )
    first, last = generations[0], generations[-1]
    tests = tuple(sorted((m[1], int(m[2])) for m in map(_SCORE.match, first) if m))
    names = [f"eval/test/{env}/{d}" for env, d in tests]
    measured = [g for g in generations if not any(np.isnan(g[f"{n}/pass@1"]) for n in names)]
    if not tests or first["generation"] != 0 or measured[:1] != [first] or measured[-1] is not last:
        raise UserError(f"{folder} lacks the test scores of its first or last generation: nothing to compare")
    planned = [run.evaluate.tasks if g is first or g is last else run.evaluate.tasks_between for g in measured]
    counts = [[g.get(f"{n}/tasks", at) for n in names] for g, at in zip(measured, planned, strict=True)]
    return Finished(
        folder=folder,
        recipe=run.recipe,
        seed=run.seed,
        fields=_flat(plain(run)),
        tests=tests,
        tokens=np.array([g["tokens"] for g in measured], float),
        scores=np.array([[g[f"{n}/pass@1"] for n in names] for g in measured], float),
        counts=np.array(counts, float),
    )


def _check_finished(folder: Path, schedule: Schedule, generations: Sequence[Mapping[str, Any]]) -> None:
    """A run is over when one of the limits in its schedule is reached."""
    if not generations:
        raise UserError(f"{folder} is unfinished: it has no generation yet")
    last = generations[-1]
    over = (
        last["generation"] >= schedule.generations,
        schedule.max_tokens is not None and last["tokens"] >= schedule.max_tokens,
        schedule.max_minutes is not None and last.get("progress/minutes", 0.0) >= schedule.max_minutes,
    )
    if last["generation"] == 0 or not any(over):
        raise UserError(
            f"{folder} is unfinished: generation {last['generation']} of {schedule.generations}; resume it first"
        )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


Groups = dict[str, dict[int, Finished]]
"""Label of a recipe -> seed -> run, in the order given."""


def group_runs(runs: Sequence[Finished]) -> Groups:
    """Group by recipe and by every field that changes what is learnt, seeds apart.

    A group of a recipe already seen is labelled with the fields in which it differs from the first.
    """
    groups: Groups = {}
    for run in runs:
        if run.tests != runs[0].tests:
            raise UserError(f"{run.folder} and {runs[0].folder} are not measured on the same tests")
        label = _label(run, groups)
        group = groups.setdefault(label, {})
        if run.seed in group:
            raise UserError(f"{run.folder} and {group[run.seed].folder} are both {label} with seed {run.seed}")
        group[run.seed] = run
    return groups


def _label(run: Finished, groups: Groups) -> str:
    first = next((next(iter(g.values())) for g in groups.values() if next(iter(g.values())).recipe == run.recipe), run)
    names = sorted(n for n in {*run.fields, *first.fields} if not _SAME.match(n))
    other = [f"{n}={run.fields.get(n)}" for n in names if run.fields.get(n) != first.fields.get(n)]
    return f"{run.recipe} ({', '.join(other)})" if other else run.recipe


def at_budget(run: Finished, budget: float) -> np.ndarray:
    """Test pass@1 at a number of sampled tokens, [D], linear between the two evaluations around it."""
    after, weight = _around(run, budget)
    return np.asarray((1 - weight) * run.scores[after - 1] + weight * run.scores[after])  # [D]


def _around(run: Finished, budget: float) -> tuple[int, float]:
    """The evaluation after a budget, and the weight of it against the one before."""
    after = int(np.clip(np.searchsorted(run.tokens, budget), 1, len(run.tokens) - 1))
    before_tokens, after_tokens = run.tokens[after - 1], run.tokens[after]
    return after, float((budget - before_tokens) / (after_tokens - before_tokens))


def noisy(run: Finished, budget: float, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Scores at a budget had other tasks been drawn, [B, D]: binomial around what was measured."""
    after, weight = _around(run, budget)
    redrawn = [
        rng.binomial(run.counts[e].astype(np.int64), run.scores[e], (draws, len(run.tests))) / run.counts[e]
        for e in (after - 1, after)
    ]
    return np.asarray((1 - weight) * redrawn[0] + weight * redrawn[1])  # [B D]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One group minus another at equal tokens, paired by seed."""

    seeds: tuple[int, ...]
    each: np.ndarray
    """[S, D + M] difference of every pair; the last M columns are the environments' means over difficulty."""
    low: np.ndarray
    """[D + M] lower end of the 95 % interval of the mean."""
    high: np.ndarray
    """[D + M] upper end."""


def paired(a: Mapping[int, Finished], b: Mapping[int, Finished], budget: float, *, draws: int = DRAWS) -> Difference:
    """Difference a - b over the seeds that both have, with its bootstrap interval.

    A draw takes S pairs with replacement and redraws the tasks of each; the draws are the same every time.
    """
    seeds = tuple(sorted(a.keys() & b.keys()))
    if not seeds:
        raise ValueError("no seed in common")
    tests = a[seeds[0]].tests
    rng = np.random.default_rng(0)
    each = np.stack([at_budget(a[s], budget) - at_budget(b[s], budget) for s in seeds])  # [S D]
    redrawn = np.stack([noisy(a[s], budget, draws, rng) - noisy(b[s], budget, draws, rng) for s in seeds])  # [S B D]
    picks = rng.integers(len(seeds), size=(draws, len(seeds)))  # [B S]
    means = with_means(redrawn[picks.T, np.arange(draws)].mean(0), tests)  # [B D+M]
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return Difference(seeds=seeds, each=with_means(each, tests), low=low, high=high)


def with_means(values: np.ndarray, tests: Sequence[Test]) -> np.ndarray:
    """Values [..., D] with each environment's mean over difficulty behind them, [..., D + M]."""
    envs = [env for env, _ in tests]
    means = [values[..., [e == env for e in envs]].mean(-1) for env in dict.fromkeys(envs)]
    return np.concatenate([values, np.stack(means, -1)], -1)


def row_names(tests: Sequence[Test]) -> list[str]:
    """The names of the columns that `with_means` returns."""
    return [f"{env} {d}" for env, d in tests] + [f"{env} mean" for env in dict.fromkeys(env for env, _ in tests)]


def _report(groups: Groups, budget: float, why: str) -> str:
    """The whole comparison in Markdown; `why` says where the budget comes from."""
    everyone = [run for group in groups.values() for run in group.values()]
    tests = everyone[0].tests
    base = with_means(np.mean([run.scores[0] for run in everyone], 0), tests)
    lines = [f"Test pass@1 at {budget:,.0f} sampled tokens (all roles), {why}.", ""]
    lines += [f"- {label}: seeds {', '.join(map(str, sorted(g)))}" for label, g in groups.items()]
    columns = {label: [with_means(at_budget(g[s], budget), tests) for s in sorted(g)] for label, g in groups.items()}
    lines += ["", _row("test", "base", *(f"{label}: mean (each seed)" for label in groups)), _rule(len(groups) + 2)]
    for i, name in enumerate(row_names(tests)):
        cells = (_mean_and_each([float(v[i]) for v in values], ".3f") for values in columns.values())
        lines.append(_row(name, f"{base[i]:.3f}", *cells))
    (first, leader), *controls = groups.items()
    for label, control in controls:
        lines += ["", f"**{first} minus {label}**", "", *_difference_table(leader, control, budget, row_names(tests))]
    if controls:
        lines += ["", METHOD.format(draws=DRAWS)]
    return "\n".join(lines) + "\n"


def _difference_table(
    leader: Mapping[int, Finished], control: Mapping[int, Finished], budget: float, names: Sequence[str]
) -> list[str]:
    if not leader.keys() & control.keys():
        return ["No seed in common: no paired difference."]
    difference = paired(leader, control, budget)
    lines = [_row("test", "mean (each seed)", "95 % interval", ""), _rule(4)]
    for i, name in enumerate(names):
        low, high = float(difference.low[i]), float(difference.high[i])
        verdict = "ahead" if low > 0 else "behind" if high < 0 else "open"
        each = [float(v) for v in difference.each[:, i]]
        lines.append(_row(name, _mean_and_each(each, "+.3f"), f"{low:+.3f} to {high:+.3f}", verdict))
    alone = sorted(leader.keys() ^ control.keys())
    if alone:
        lines += ["", f"Left out for want of a partner: seeds {', '.join(map(str, alone))}."]
    if len(difference.seeds) == 1:
        lines += ["", "One pair of seeds only: the interval holds the noise of the tasks, not that of training."]
    return lines


def _mean_and_each(values: Sequence[float], form: str) -> str:
    return f"{format(float(np.mean(values)), form)} ({' '.join(format(v, form) for v in values)})"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _rule(columns: int) -> str:
    return "|" + "---|" * columns
