"""Score a model outside a run: `selfplay evaluate`, and the model card of a pretraining."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import isnan, nan
from pathlib import Path

import numpy as np

import envs
from envs.base import Env, Split
from selfplay import recipe
from selfplay.actor import make_worker
from selfplay.arena import Arena
from selfplay.checkpoint import Generations
from selfplay.cluster.base import Cluster, Params
from selfplay.cluster.inprocess import InProcess
from selfplay.config import EnvChoice, Mesh, Policy, Run
from selfplay.errors import UserError, nearest
from selfplay.evaluate import Acquire, scores
from selfplay.export import weights_of, which_generation
from selfplay.folders import CONFIG, find_run
from selfplay.joint import open_models
from selfplay.models import Model, load
from selfplay.models.hf import EMBEDDED
from selfplay.opponents import Opponents
from selfplay.records import Group, PolicyRef, Trajectory, Unit
from selfplay.score import score
from selfplay.tree import plain
from selfplay.units import evaluation_units, is_game

KS = (1, 4, 16, 64)
ROWS = 512
"""Most rows of attempts in a unit."""
DEFAULT_TASKS = 128
OF_RUNS = ("elo", "elo_low", "elo_high", "cycles", "nash_conv_average")
"""Curves of games that only generations beside each other have."""


@dataclass(frozen=True)
class Subject:
    """What is scored: a name for the table, the folder of its tokenizer and config, and its weights."""

    name: str
    model: str
    params: Params


def examine(
    subject: Subject, run: Run, *, tasks: int, samples: int, splits: Sequence[Split] = ("test",)
) -> dict[str, float]:
    """Scores of a model on held-out tasks and in games, names as in docs/metrics.md; every k of KS up to `samples`.

    Args:
      run: says which environments and difficulties, and how the solver samples.
      tasks: tasks a difficulty and split; games against each scripted player.
      samples: attempts a task, n of the unbiased pass@k.
    """
    policy = run.roles[run.main_role].policy
    cluster = InProcess(make_worker({"policies": {policy: plain(Policy(model=subject.model))}}))
    made = {name: envs.make(name, **choice.options) for name, choice in run.envs.items()}
    run = replace(run, evaluate=replace(run.evaluate, tasks_per_unit=max(1, ROWS // samples)))
    ref = PolicyRef(policy, 0)
    cluster.publish(policy, 0, subject.params)
    try:
        units = evaluation_units(
            run, made, generation=0, step=0, solver=ref, tasks=dict.fromkeys(splits, tasks), samples=samples
        )
        found = scores(_groups(cluster, units), ks=[k for k in KS if k <= samples])
        return found | _games(subject, run, made, partial(_groups, cluster), games=tasks, policy=policy)
    finally:
        cluster.close()


def _groups(cluster: Cluster, units: Sequence[Unit]) -> list[Group]:
    return [group for _, found, _ in cluster.run(units) for group in found]


def _games(
    subject: Subject, run: Run, made: Mapping[str, Env], acquire: Acquire, *, games: int, policy: str
) -> dict[str, float]:
    """How a model plays: against scripted players and itself, and where the game is small, how far from equilibrium.

    Nothing of what only generations of a run have: ratings, and the average policy.
    """
    if not any(is_game(env) for env in made.values()) or run.roles["play"].policy != policy:
        return {}
    run = replace(run, evaluate=replace(run.evaluate, games=games))
    model = replace(load(subject.model), params=dict(subject.params))
    opponents, temperature = Opponents(run.opponents), run.roles["play"].temperature
    opponents.remember(0, 0)

    def ask(_: str, trajectories: Sequence[Trajectory]) -> list[np.ndarray]:
        held = [t.kept for t in trajectories if t.kept is not None]  # of all questions, or of none
        ids = [t.ids for t in trajectories]
        rows = score(model.config, model.params, ids, temperature=temperature, kept=held or None)
        return [np.where(t.mask, np.append(0, row), 0) for t, row in zip(trajectories, rows, strict=True)]

    arena = Arena(run, made, {policy: model})
    curves = arena.rate(acquire, ask, opponents, generation=0, step=0, player=PolicyRef(policy, 0))
    return {name: value for name, value in curves.items() if name.rsplit("/", 1)[1] not in OF_RUNS and not isnan(value)}


def evaluate_command(
    target: str,
    *,
    env: str | None = None,
    mode: str | None = None,
    generation: int | None = None,
    samples: int | None = None,
    tasks: int = DEFAULT_TASKS,
    out: Path | None = None,
) -> None:
    """`selfplay evaluate RUN|MODEL`: test pass@k, and how games are played; a run's generation stands beside its base.

    Args:
      mode: score tasks of this mode alone; None = of all that the run uses, the same number each.

    Raises:
      UserError: no such run or model, or an argument out of range.
    """
    for name, value in (("--samples", samples), ("--tasks", tasks)):
        if value is not None and value < 1:
            raise UserError(f"{name} must be >= 1, got {value}")
    run, subjects = _subjects(target, env, generation)
    if mode is not None:
        run = replace(run, envs={name: _of_mode(name, choice, mode) for name, choice in run.envs.items()})
    games = [name for name, choice in run.envs.items() if is_game(envs.make(name, **choice.options))]
    if games and tasks % 2:
        raise UserError(f"--tasks must be even, got {tasks}: half of the games of {games[0]} are played from each seat")
    if samples is not None and len(games) == len(run.envs):
        raise UserError(f"--samples: {games[0]} is a game; --tasks sets how many are played against each opponent")
    count = sum(int(np.size(x)) for x in _leaves(subjects[0].params))
    samples = samples or (64 if count < 10_000_000 else 16)
    found = {s.name: examine(s, run, tasks=tasks, samples=samples) for s in subjects}
    if len(games) < len(run.envs):
        print(table(found, samples=samples, tasks=tasks))
    if games:
        print(table_of_games(found, games=tasks))
    if out is not None:
        out.write_text(json.dumps({"samples": samples, "tasks": tasks, "scores": found}, indent=1), encoding="utf-8")


def _leaves(params: Params) -> list[np.ndarray]:
    return [x for v in params.values() for x in (_leaves(v) if isinstance(v, Mapping) else [v])]


def _of_mode(name: str, choice: EnvChoice, mode: str) -> EnvChoice:
    """An environment's choice with one mode."""
    has = envs.make(name, **choice.options).spec.modes
    if mode not in has:
        raise UserError(f"--mode: environment {name} has no mode {mode!r}; {nearest(mode, has)}")
    return replace(choice, modes=(mode,))


def _subjects(target: str, env: str | None, generation: int | None) -> tuple[Run, list[Subject]]:
    """The settings, and what to score: a model, or a run's generation and its base."""
    folder = run_of(target)
    if folder is None:
        if generation is not None:
            raise UserError(f"{target} is a model: it has no generation {generation}")
        run = recipe.resolve("quickstart", ["--policies.main.model", target], env=env)
        model = load(target)
        return run, [Subject(model.path.name, target, model.params)]
    run = recipe.from_toml(folder / CONFIG)
    if env is not None and env not in run.envs:
        run = replace(run, envs={env: EnvChoice()})
    elif env is not None:
        run = replace(run, envs={env: run.envs[env]})
    generations = Generations(folder / "generations", run.output.keep)
    wanted = which_generation(generations, generation, folder)
    policy = run.roles[run.main_role].policy
    model = base_of(run, policy)
    found = weights_of(generations, wanted, policy, run.policies[policy], model)
    subjects = [Subject(f"generation {wanted}", str(model.path), found)]
    return run, subjects + [Subject("base", str(model.path), model.params)] * (wanted != 0)


def base_of(run: Run, policy: str) -> Model:
    """What a policy of a run began as, on one device: its model, or the weights that the run drew anew."""
    settings = run.policies[policy]
    if settings.weights == "pretrained":
        return load(settings.model)
    return open_models(replace(run, mesh=Mesh()))[policy]


def run_of(target: str) -> Path | None:
    """The folder of the run that a target names; None where it names a model.

    Raises:
      UserError: it names neither.
    """
    if target in EMBEDDED or (Path(target) / "config.json").is_file():
        return None
    try:
        return find_run(target)
    except UserError as error:
        raise UserError(f"{error} (and there is no model folder {target}; embedded: {', '.join(EMBEDDED)})") from None


def table(found: Mapping[str, Mapping[str, float]], *, samples: int, tasks: int) -> str:
    """A markdown table: a row a difficulty, a column a (subject, k)."""
    ks = [k for k in KS if k <= samples]
    first = next(iter(found.values()))
    cells = [n.removesuffix("/pass@1") for n in first if n.endswith("/pass@1")]
    head = ["held-out", *(f"{name} pass@{k}" for name in found for k in ks)]
    lines = [f"{samples} samples a task, {tasks} tasks a difficulty", "", _row(head), _row(["---"] * len(head))]
    for cell in sorted(cells, key=lambda c: [int(p) if p.isdigit() else 10**9 for p in c.split("/")[-1:]]):
        lines.append(
            _row([cell.removeprefix("eval/"), *(f"{s[f'{cell}/pass@{k}']:.3f}" for s in found.values() for k in ks)])
        )
    return "\n".join(lines)


def table_of_games(found: Mapping[str, Mapping[str, float]], *, games: int) -> str:
    """A markdown table: a row a measure of a game, a column a subject."""
    names = [name for name in next(iter(found.values())) if name.startswith("game/")]
    lines = [f"{games} games against each opponent, half from each seat", ""]
    lines += [_row(["game", *found]), _row(["---"] * (1 + len(found)))]
    for name in names:
        lines.append(_row([name.removeprefix("game/"), *(f"{s.get(name, nan):.3f}" for s in found.values())]))
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
