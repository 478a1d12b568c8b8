"""Evaluation: held-out scores of a generation, and the next objective that follows from them.

`dev` steers (objective, alarms), `test` is only reported: no decision reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import comb, isnan, nan

import numpy as np

from envs.base import Env
from selfplay.config import Run
from selfplay.records import Group, Lesson, PolicyRef, Unit
from selfplay.units import evaluation_units, uniform_objective

Acquire = Callable[[Sequence[Unit]], list[Group]]
"""Units -> their groups, in unit order."""


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased chance that k samples hold a right one, from c right ones among n: 1 - C(n-c, k) / C(n, k).

    Source: Chen et al. 2021, arXiv:2107.03374.
    """
    if not 0 < k <= n or not 0 <= c <= n:
        raise ValueError(f"pass_at_k needs 0 < k <= n and 0 <= c <= n, got n = {n}, c = {c}, k = {k}")
    return 1.0 - comb(n - c, k) / comb(n, k)


def scores(groups: Iterable[Group], *, ks: Sequence[int] = (1,)) -> dict[str, float]:
    """eval/<split>/<env>/<difficulty>/pass@<k>, its number of tasks, and the mean over difficulties.

    Attempts that the environment failed to judge are left out; a task with fewer than k judged attempts has no
    pass@k.
    """
    found: dict[str, list[Group]] = {}
    for group in groups:
        if group.task is not None:
            found.setdefault(f"eval/{group.split}/{group.env}/{group.task.difficulty}", []).append(group)
    out: dict[str, float] = {}
    for cell, members in found.items():
        judged = [(len(g.valid), sum(a.verdict.status == "ok" for a in g.valid)) for g in members]
        for k in ks:
            rates = [pass_at_k(n, c, k) for n, c in judged if n >= k]
            out[f"{cell}/pass@{k}"] = float(np.mean(rates)) if rates else nan
        out[f"{cell}/tasks"] = float(len(members))
    for k in ks:
        by_env: dict[str, list[float]] = {}
        for name in [n for n in out if n.endswith(f"/pass@{k}")]:
            by_env.setdefault(name.rsplit("/", 2)[0], []).extend([out[name]] * (not isnan(out[name])))
        out |= {f"{env}/pass@{k}": float(np.mean(rates)) if rates else nan for env, rates in by_env.items()}
    return out


def held_out_scores(
    run: Run,
    envs: Mapping[str, Env],
    acquire: Acquire,
    *,
    generation: int,
    step: int,
    solver: PolicyRef,
    lessons: Sequence[Lesson],
    whole: bool,
) -> dict[str, float]:
    """The scores of a generation on dev and test.

    Args:
      acquire: runs units.
      whole: on as many test tasks as at a run's ends, not only as between.
    """
    plan = run.evaluate
    units = evaluation_units(
        run,
        envs,
        generation=generation,
        step=step,
        solver=solver,
        tasks={"dev": plan.tasks_between, "test": plan.tasks if whole else plan.tasks_between},
        lessons=lessons,
    )
    hardest_first = sorted(units, key=lambda unit: -max(unit.difficulties, default=0))
    return scores(acquire(hardest_first))  # their answers are longest: actors are done at about the same time


def next_objective(run: Run, envs: Mapping[str, Env], solve_rates: Mapping[str, float]) -> dict[str, float]:
    """Task-mix weights over "env/mode/difficulty" for the next generation or step.

    weight = floor + 4 p (1 - p) / mean(4 p (1 - p)), so that what is half solved is trained most, and nothing is
    forgotten altogether. p unknown counts as 1/2.

    Args:
      solve_rates: estimate of p by "env/difficulty".
    """
    weights = uniform_objective(run, envs)
    for name in weights:
        env, _, difficulty = name.rsplit("/", 2)
        p = solve_rates.get(f"{env}/{difficulty}", 0.5)
        weights[name] = 4 * p * (1 - p)
    mean = float(np.mean(list(weights.values())))
    return {name: run.objective.floor + (w / mean if mean > 0 else 1.0) for name, w in weights.items()}


def dev_solve_rates(evaluated: Mapping[str, float]) -> dict[str, float]:
    """p by "env/difficulty" from the dev scores alone."""
    out = {}
    for name, value in evaluated.items():
        parts = name.split("/")
        if parts[:2] == ["eval", "dev"] and len(parts) == 5 and parts[4] == "pass@1" and not np.isnan(value):
            out[f"{parts[2]}/{parts[3]}"] = value
    return out


def moving_solve_rates(kept: Mapping[str, float], groups: Iterable[Group], *, decay: float) -> dict[str, float]:
    """Moving estimate of p by "env/difficulty" from training groups: p <- decay p + (1 - decay) mean."""
    met: dict[str, list[float]] = {}
    for group in groups:
        if group.task is not None and group.valid and not group.round and not group.players:
            met.setdefault(f"{group.env}/{group.task.difficulty}", []).append(group.solve_rate)
    out = dict(kept)
    for name, rates in met.items():
        mean = float(np.mean(rates))
        out[name] = decay * out[name] + (1 - decay) * mean if name in out else mean
    return out


def objective_curves(objective: Mapping[str, float]) -> dict[str, float]:
    """objective/<env>/<difficulty>: the weights of the task mix."""
    return {f"objective/{_two_parts(name)}": weight for name, weight in objective.items()}


def _two_parts(name: str) -> str:
    """ "env/mode/difficulty" without the mode where the environment has but one to tell apart."""
    env, _, difficulty = name.rsplit("/", 2)
    return f"{env}/{difficulty}"
