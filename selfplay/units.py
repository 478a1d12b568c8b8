"""What a learner step asks its actors for: units of training experience, and units of evaluation.

Drawn by the learner alone, from keyed draws, so that an actor needs nothing but the unit.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.base import Env, Game, Proposable, Split, Task
from selfplay.archive import TaskArchive
from selfplay.config import EnvChoice, Run, Source, Template
from selfplay.errors import UserError
from selfplay.metrics.files import read_tasks
from selfplay.opponents import Opponents
from selfplay.records import Group, Lesson, Player, PolicyRef, Role, SamplingSpec, Unit
from selfplay.streams import Stream, python_seed

EVALUATION_SEED = 0
"""Seed of held-out tasks: the same tasks in every run, so that runs compare task by task."""

RATING = 1 << 20
"""Index of the first unit of rating games: their draws are not those of held-out tasks."""

Objective = Mapping[str, float]
"""Weights of procedural tasks by "env/mode/difficulty"."""


@dataclass(frozen=True)
class World:
    """What units are drawn from: the environments, and for a yoked control the other run's tasks by step."""

    envs: Mapping[str, Env]
    yoked: Mapping[int, Sequence[Task]]


def modes(env: Env, choice: EnvChoice) -> tuple[str, ...]:
    """The modes of an environment that a run uses."""
    return choice.modes or env.spec.modes


def difficulties(env: Env, choice: EnvChoice) -> tuple[int, ...]:
    """The difficulties that a run trains on and evaluates."""
    return choice.difficulties or env.spec.difficulties


def uniform_objective(run: Run, envs: Mapping[str, Env]) -> dict[str, float]:
    """The same weight for every (environment, mode, difficulty)."""
    return {
        f"{name}/{mode}/{difficulty}": 1.0
        for name, choice in run.envs.items()
        for mode in modes(envs[name], choice)
        for difficulty in difficulties(envs[name], choice)
    }


def step_units(
    run: Run,
    world: World,
    *,
    generation: int,
    step: int,
    seats: Mapping[Role, PolicyRef],
    objective: Objective,
    archive: TaskArchive,
    opponents: Opponents,
    lessons: Sequence[Lesson] = (),
) -> list[Unit]:
    """The units of one learner step."""
    return [
        _training_unit(run, world, generation, step, index, seats, objective, archive, opponents, lessons)
        for index in range(run.acquire.units)
    ]


def _training_unit(
    run: Run,
    world: World,
    generation: int,
    step: int,
    index: int,
    seats: Mapping[Role, PolicyRef],
    objective: Objective,
    archive: TaskArchive,
    opponents: Opponents,
    lessons: Sequence[Lesson],
) -> Unit:
    rng = random.Random(python_seed(run.seed, Stream.TASKMIX, generation, step, index))
    names = [name for name, choice in run.envs.items() if choice.weight > 0]
    name = rng.choices(names, [run.envs[n].weight for n in names])[0]
    env, choice = world.envs[name], run.envs[name]
    mode = rng.choice(modes(env, choice))
    if run.acquire.modes == "in_turn":
        mode = modes(env, choice)[((step - 1) * run.acquire.units + index) % len(modes(env, choice))]
    source = "play" if is_game(env) else _source(run, rng, archive, env.spec.name, mode)
    base = _unit_base(run, name, env, seats, generation=generation, step=step, index=index, lessons=lessons)
    base |= {
        "leak": run.propose.leak,
        "answers": any(role.judge == "vote" for role in run.roles.values()),
        "demonstrate": run.refine.kind == "demonstrate",
    }
    rows = run.acquire.tasks_per_unit
    if source == "play":
        first = ((step - 1) * run.acquire.units + index) * rows
        return _game_unit(run, base, mode, rows, first, seats["play"], opponents)
    if source == "propose":
        asks = rows // run.propose.per_ask
        shown = tuple(
            tuple(archive.sample(run.propose.shown, rng.getrandbits(32), env=env.spec.name, mode=mode))
            for _ in range(asks)
        )
        return Unit(
            **base,
            kind="propose",
            mode=mode,
            rows=rows,
            per_ask=run.propose.per_ask,
            shown=shown,
            attempts=run.acquire.group_size,
        )
    given: dict[str, Any] = {"kind": "solve", "mode": mode, "rows": rows, "attempts": run.acquire.group_size}
    if source == "replay":
        draw = archive.sample_learnable if run.acquire.replay == "learnability" else archive.sample_replayable
        return Unit(**base, **given, tasks=tuple(draw(rows, rng.getrandbits(32), env=env.spec.name, mode=mode)))
    if source == "yoked":
        return Unit(**base, **given, tasks=_yoked_tasks(world, step, index, run))
    prefix = f"{name}/{mode}/"
    mix = {int(k.removeprefix(prefix)): w for k, w in objective.items() if k.startswith(prefix)}
    drawn = tuple(rng.choices(list(mix), list(mix.values()), k=rows))
    first = ((step - 1) * run.acquire.units + index) * rows
    return Unit(**base, **given, difficulties=drawn, first_index=first, task_seed=run.seed)


def _source(run: Run, rng: random.Random, archive: TaskArchive, env: str, mode: str) -> Source:
    """Draw where a unit's tasks come from; replay counts only while the archive can fill a unit."""
    mix = {s: w for s, w in run.acquire.mix.items() if w > 0 and s != "play"}
    if "replay" in mix and len(mix) > 1 and len(archive.replayable(env=env, mode=mode)) < run.acquire.tasks_per_unit:
        mix.pop("replay")
    return rng.choices(list(mix), list(mix.values()))[0]


def _game_unit(
    run: Run, base: Mapping[str, Any], mode: str, rows: int, first: int, now: PolicyRef, opponents: Opponents
) -> Unit:
    """A unit of games, `group_size` on each deal, between line-ups drawn by `opponents.mix`."""
    rng = random.Random(python_seed(run.seed, Stream.MATCH, base["generation"], base["step"], base["index"]))
    players = opponents.line_ups(rows, rng, now, env=base["env"])
    return Unit(
        **base,
        kind="play",
        mode=mode,
        rows=rows,
        attempts=run.acquire.group_size,
        difficulties=(1,) * rows,
        first_index=first,
        task_seed=run.seed,
        players=players,
        learners=tuple(_learners(run, now, line_up, row) for row, line_up in enumerate(players)),
    )


def _learners(run: Run, now: PolicyRef, line_up: Sequence[Player], row: int) -> tuple[int, ...]:
    """The seats of the newest weights; of games against themselves, with opponents.learn = latest, the one that would
    be theirs against another."""
    newest = tuple(s for s, p in enumerate(line_up) if p == Player(policy=now.policy, version=now.version))
    if run.opponents.learn == "latest" and len(newest) == len(line_up):
        return (row % len(line_up),)
    return newest


def rating_units(
    run: Run, envs: Mapping[str, Env], opponents: Opponents, *, generation: int, step: int, player: PolicyRef
) -> list[Unit]:
    """Units of games that measure the newest weights against every scripted player and every kept generation, one unit
    an opponent, so that calls have one shape."""
    units: list[Unit] = []
    for name, env in envs.items():
        if not isinstance(env, Game) or not run.evaluate.games:
            continue
        line_ups = opponents.rating_line_ups(player, bots=env.bots(), games=run.evaluate.games)
        size = run.evaluate.games
        for start in range(0, len(line_ups), size):
            players = line_ups[start : start + size]
            seats: dict[Role, PolicyRef] = {"play": player}
            base = _unit_base(run, name, env, seats, generation=generation, step=step, index=RATING + len(units))
            base["sampling"] = {"play": sampling(run, "play", env, temperature=run.evaluate.temperature)}
            units.append(
                Unit(
                    **base,
                    kind="evaluate",
                    mode=modes(env, run.envs[name])[0],
                    rows=len(players),
                    difficulties=(1,) * len(players),
                    first_index=start,
                    task_seed=EVALUATION_SEED,
                    players=players,
                )
            )
    return units


def planned_sequences(units: Sequence[Unit]) -> dict[Role, int]:
    """Sequences that the units set out to sample and learn from, by role."""
    return {
        "propose": sum(u.rows for u in units if u.kind == "propose"),
        "solve": sum(u.rows * u.attempts for u in units if not u.players),
        "play": sum(len(seats) * u.attempts for u in units for seats in u.learners),
    }


def longest_completions(units: Sequence[Unit]) -> dict[Role, int]:
    """Tokens of the longest completion that each role may write."""
    roles = {role for unit in units for role in unit.sampling}
    return {role: max(u.sampling[role].max_new_tokens for u in units if role in u.sampling) for role in roles}


def is_game(env: Env) -> bool:
    """Whether several seats play it."""
    return env.spec.seats > 1


def _yoked_tasks(world: World, step: int, index: int, run: Run) -> tuple[Task, ...]:
    """This unit's share of the other run's tasks of this step, repeated in order where it falls short of a unit.

    Steps in which the other run admitted nothing are passed over, and after its last step its first comes again: a
    yoked run samples no proposals, so at equal tokens it has more steps.
    """
    steps = sorted(world.yoked)
    tasks = world.yoked[steps[(step - 1) % len(steps)]]
    share = tasks[index :: run.acquire.units] or tasks
    rows = run.acquire.tasks_per_unit
    return tuple(share[i % len(share)] for i in range(rows))


def _unit_base(
    run: Run,
    name: str,
    env: Env,
    seats: Mapping[Role, PolicyRef],
    *,
    generation: int,
    step: int,
    index: int,
    lessons: Sequence[Lesson] = (),
) -> dict[str, Any]:
    """The fields that all kinds of units share."""
    roles = [r for r in seats if (r == "play") == is_game(env)]
    return {
        "seed": run.seed,
        "generation": generation,
        "step": step,
        "index": index,
        "env": name,
        "options": dict(run.envs[name].options),
        "seats": {role: seats[role] for role in roles},
        "frozen": tuple(r for r in roles if not run.roles[r].trainable),
        "sampling": {role: sampling(run, role, env) for role in roles},
        "templates": {role: template_of(run, role) for role in roles},
        "lessons": tuple(x for x in lessons if x.env == env.spec.name),
        "lessons_shown": run.refine.shown,
    }


def template_of(run: Run, role: Role) -> Template:
    """How the policy that plays a role is spoken to."""
    return run.policies[run.roles[role].policy].template


def sampling(run: Run, role: Role, env: Env, *, temperature: float | None = None) -> SamplingSpec:
    """How a role samples: its own limits, or else the environment's; stop texts of its template and its own."""
    config = run.roles[role]
    asked = env.spec.propose_tokens if role == "propose" else env.spec.max_new_tokens
    return SamplingSpec(
        max_new_tokens=config.max_new_tokens or asked,
        stop=tuple(dict.fromkeys((*template_of(run, role).stops, *config.stop))),
        temperature=config.temperature if temperature is None else temperature,
        slots=run.acquire.slots,
        constrain=config.constrain,
    )


def evaluation_units(
    run: Run,
    envs: Mapping[str, Env],
    *,
    generation: int,
    step: int,
    solver: PolicyRef,
    tasks: Mapping[Split, int],
    samples: int = 1,
    lessons: Sequence[Lesson] = (),
) -> list[Unit]:
    """Units over the held-out tasks of every (split, environment, mode, difficulty).

    Args:
      tasks: tasks a difficulty by split, shared out evenly over the environment's modes.
      samples: attempts a task.
    """
    units: list[Unit] = []
    for split, count in tasks.items():
        for name, choice in run.envs.items():
            env = envs[name]
            if is_game(env):
                continue
            used = modes(env, choice)
            for mode in used:
                for difficulty in difficulties(env, choice):
                    for first, rows in _chunks(count // len(used) or 1, env.size(split), run.evaluate.tasks_per_unit):
                        place = {"generation": generation, "step": step, "index": len(units)}
                        base = _unit_base(run, name, env, {"solve": solver}, **place, lessons=lessons)
                        base["sampling"] = {"solve": sampling(run, "solve", env, temperature=run.evaluate.temperature)}
                        units.append(
                            Unit(
                                **base,
                                kind="evaluate",
                                split=split,
                                mode=mode,
                                rows=rows,
                                attempts=samples,
                                difficulties=(difficulty,) * rows,
                                first_index=first,
                                task_seed=EVALUATION_SEED,
                            )
                        )
    return units


def _chunks(tasks: int, size: int | None, rows: int) -> Iterator[tuple[int, int]]:
    """(first index, rows) of each unit, over all tasks or as many as the split has."""
    total = tasks if size is None else min(tasks, size)
    for first in range(0, total, rows):
        yield first, min(rows, total - first)


def seed_groups(run: Run, envs: Mapping[str, Env]) -> list[Group]:
    """The tasks that an archive begins with, as groups that nobody attempted: each mode's, of the least difficulty."""
    out = []
    for name, choice in run.envs.items():
        env = envs[name]
        for mode in modes(env, choice):
            for index in range(run.archive.seeds):
                task = env.task("train", index, run.seed, mode=mode, difficulty=min(difficulties(env, choice)))
                shape = env.shape(task) if isinstance(env, Proposable) else ""
                place = {"generation": 0, "step": 0, "unit": 0, "row": index, "kind": "solve", "split": "train"}
                out.append(Group(**place, env=name, mode=mode, task=task, shape=shape, seats={}))  # type: ignore[arg-type]
    return out


def load_yoked(run: Run) -> dict[int, list[Task]]:
    """Step -> admitted tasks of the run that a yoked control replays; empty for other runs.

    Raises:
      UserError: that run has no tasks.
    """
    if not run.acquire.mix.get("yoked", 0):
        return {}
    folder = Path(run.acquire.yoked_run or "")
    by_step: dict[int, list[Task]] = {}
    if (folder / "tasks.jsonl").is_file():
        for line in read_tasks(folder):
            by_step.setdefault(line.step, []).append(line.task)
    if not by_step:
        raise UserError(f"acquire.yoked_run {folder}: there are no tasks in its tasks.jsonl")
    return by_step
