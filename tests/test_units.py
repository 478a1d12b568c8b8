"""What a learner step asks for: the same units from the same place, and no task twice or on the wrong side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import toy_env
from msgspec.structs import replace as replaced
from small_runs import small_run

import envs
from envs.base import Env, Task
from selfplay.archive import TaskArchive
from selfplay.config import EnvChoice, Run
from selfplay.errors import UserError
from selfplay.metrics.files import LineFile, TaskLine
from selfplay.opponents import Opponents
from selfplay.records import Group, PolicyRef, Role, Unit, encode
from selfplay.standing import Tally
from selfplay.units import (
    World,
    evaluation_units,
    load_yoked,
    step_units,
    uniform_objective,
)

NOWHERE = Path("no-model-is-loaded-here")
SEATS: dict[Role, PolicyRef] = {"propose": PolicyRef("main", 3), "solve": PolicyRef("main", 4)}


def make_run(name: str = "quickstart", *flags: str, **choices: EnvChoice) -> Run:
    run = small_run(name, NOWHERE, *flags)
    return replace(run, envs=choices or run.envs)


def make_envs(run: Run) -> dict[str, Env]:
    return {name: envs.make(name, **choice.options) for name, choice in run.envs.items()}


def units_of(
    run: Run, *, step: int = 1, archive: TaskArchive | None = None,
    objective: Mapping[str, float] | None = None, yoked: Mapping[int, list[Task]] | None = None,
) -> list[Unit]:  # fmt: skip
    made = make_envs(run)
    return step_units(
        run, World(made, yoked or {}), generation=1, step=step, seats=SEATS,
        objective=objective or uniform_objective(run, made), archive=archive or TaskArchive(99),
        opponents=Opponents(run.opponents),
    )  # fmt: skip


def met(*tasks: Task, env: str = toy_env.NAME) -> TaskArchive:
    """An archive that has met these tasks, as the learner's own groups name their environment."""
    archive = TaskArchive(99)
    archive.record(
        Group(
            generation=0, step=0, unit=0, row=i, kind="solve", env=env, mode=t.mode, split="train", task=t, seats=SEATS
        )
        for i, t in enumerate(tasks)
    )  # fmt: skip
    return archive


def tasks_of(count: int, *, first: int = 0) -> list[Task]:
    env = toy_env.Toy()
    return [env.task("train", first + i, 7) for i in range(count)]


def test_units_are_a_function_of_their_place() -> None:
    run = make_run("quickstart", "--propose.shown 2")
    archive = met(*tasks_of(20))
    first = units_of(run, archive=archive)
    assert encode(first) == encode(units_of(run, archive=archive))
    assert [u.index for u in first] == [0, 1] and first[0].shown != first[1].shown
    assert units_of(run, archive=archive, step=2)[0].shown != first[0].shown
    assert units_of(replace(run, seed=1), archive=archive)[0].shown != first[0].shown


def test_a_propose_unit_by_hand() -> None:
    run = make_run("quickstart-frozen", "--propose.per-ask 2 --propose.shown 1 --roles.propose.temperature 0.7")
    archive = met(*tasks_of(5))
    unit = units_of(run, archive=archive)[0]
    assert (unit.kind, unit.rows, unit.per_ask, unit.attempts, unit.split) == ("propose", 4, 2, 4, "train")
    assert len(unit.shown) == 2 and all(len(s) == 1 and archive.count(s[0].key) for s in unit.shown)
    assert unit.seats == SEATS and unit.frozen == ("propose",) and unit.seed == run.seed
    assert unit.sampling["propose"].temperature == 0.7 and unit.sampling["solve"].temperature == 1.0
    assert unit.sampling["propose"].max_new_tokens == 4  # as the environment asks
    assert units_of(run)[0].shown == ((), ())  # nothing to show yet


def test_training_indexes_never_repeat() -> None:
    run = make_run("rlvr", "--acquire.units 3")
    places = Counter(
        unit.first_index + row for step in range(1, 30) for unit in units_of(run, step=step) for row in range(unit.rows)
    )
    assert len(places) == 29 * 3 * 4 and set(places.values()) == {1} and min(places) == 0
    assert {u.task_seed for u in units_of(run)} == {run.seed} and {u.kind for u in units_of(run)} == {"solve"}


def test_difficulties_follow_the_objective() -> None:
    run = make_run("rlvr", "--acquire.units 10", "--acquire.tasks-per-unit 100")
    name = toy_env.NAME

    def drawn(weights: tuple[float, float]) -> float:
        objective = {f"{name}/solve/{d}": w for d, w in zip((1, 2), weights, strict=True)}
        found = Counter(d for u in units_of(run, objective=objective) for d in u.difficulties)
        return found[2] / found.total()

    assert drawn((1, 0)) == 0 and drawn((0, 1)) == 1
    assert drawn((1, 1)) == pytest.approx(0.5, abs=0.06) and drawn((1, 4)) == pytest.approx(0.8, abs=0.06)


def test_environments_are_drawn_by_their_weights() -> None:
    run = make_run(
        "rlvr", "--acquire.units 300", "--acquire.tasks-per-unit 1",
        **{"chain": EnvChoice(weight=3), "sums": EnvChoice(weight=1), "toy_env:Toy": EnvChoice(weight=0)},
    )  # fmt: skip
    units = units_of(run)
    found = Counter(u.env for u in units)
    assert set(found) == {"chain", "sums"} and found["chain"] / 300 == pytest.approx(0.75, abs=0.08)
    made = make_envs(run)
    assert all(set(u.difficulties) <= set(made[u.env].spec.difficulties) for u in units)


def test_replay_waits_until_the_archive_fills_a_unit() -> None:
    run = make_run("quickstart")
    run = replace(run, acquire=replace(run.acquire, units=40, mix={"propose": 1, "replay": 1}))

    def kinds(archive: TaskArchive) -> Counter[str]:
        return Counter("replay" if u.tasks else u.kind for u in units_of(run, archive=archive))

    assert kinds(met(*tasks_of(3))) == {"propose": 40}
    other = [replaced(t, env="other") for t in tasks_of(9)]
    assert kinds(met(*other)) == {"propose": 40}  # tasks of another environment do not count
    full = kinds(met(*tasks_of(4)))
    assert full["replay"] / 40 == pytest.approx(0.5, abs=0.25)
    unit = next(u for u in units_of(run, archive=met(*tasks_of(9))) if u.tasks)
    assert unit.kind == "solve" and len({t.key for t in unit.tasks}) == unit.rows == 4


def test_replay_passes_over_retired_tasks_and_waits_where_too_few_are_left() -> None:
    run = make_run("quickstart")
    run = replace(run, acquire=replace(run.acquire, units=20, mix={"propose": 1, "replay": 1}))
    data = met(*tasks_of(6)).to_bytes()

    def replayed(retired: int) -> set[str]:
        archive = TaskArchive.from_bytes(data)
        for entry in list(archive)[:retired]:
            entry.tallies = [Tally(solver=PolicyRef("main", 0), attempts=40, solves=40)]
        archive = TaskArchive.from_bytes(archive.to_bytes())
        return {t.key for u in units_of(run, archive=archive) for t in u.tasks}

    keys = [t.key for t in tasks_of(6)]
    assert replayed(0) == set(keys) and replayed(2) == set(keys[2:]) and replayed(3) == set()  # a unit has four


def test_replay_takes_the_learnable_tasks_where_the_recipe_says_so() -> None:
    archive, learnable = met(*tasks_of(12)), {t.key for t in tasks_of(12)[3:7]}
    for entry in archive:
        entry.last_p = 0.5 if entry.task.key in learnable else 1.0

    def replayed(how: str) -> float:
        run = make_run("quickstart")
        run = replace(run, acquire=replace(run.acquire, units=40, mix={"replay": 1}, replay=how))  # type: ignore[arg-type]
        drawn = [t.key for u in units_of(run, archive=archive) for t in u.tasks]
        return sum(key in learnable for key in drawn) / len(drawn)

    assert replayed("uniform") == pytest.approx(1 / 3, abs=0.12)
    assert replayed("learnability") > 0.9


def test_yoked_units_share_out_the_tasks_of_their_step() -> None:
    run = replace(make_run("rlvr"), recipe="yoked")
    run = replace(run, acquire=replace(run.acquire, mix={"yoked": 1.0}, yoked_run="theirs"))
    theirs = {1: tasks_of(5), 2: tasks_of(1, first=50)}
    first, second = units_of(run, yoked=theirs)
    assert [t.index for t in first.tasks] == [0, 2, 4, 0]  # every other one, again from the start to fill the unit
    assert [t.index for t in second.tasks] == [1, 3, 1, 3]
    for unit in units_of(run, step=2, yoked=theirs):  # one task for two units: both replay it
        assert [t.index for t in unit.tasks] == [50] * 4
    again = units_of(run, step=3, yoked=theirs)  # after their last step, their first
    assert [u.tasks for u in again] == [first.tasks, second.tasks]


def test_yoked_tasks_are_read_by_step(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "tasks.jsonl")
    tasks = tasks_of(4)
    lines = zip((1, 1, 2, 3), tasks, strict=True)
    file.append_all([TaskLine(step=s, unit=0, row=i, solve_rate=None, task=t) for i, (s, t) in enumerate(lines)])
    file.close()
    flags = "--schedule.generations 3 --schedule.steps-per-generation 1"
    run = make_run("yoked", flags, f"--acquire.yoked-run {tmp_path}")
    assert load_yoked(run) == {1: tasks[:2], 2: tasks[2:3], 3: tasks[3:]}
    with pytest.raises(UserError, match="there are no tasks in its tasks.jsonl"):
        load_yoked(replace(run, acquire=replace(run.acquire, yoked_run=str(tmp_path / "empty"))))
    assert load_yoked(make_run("rlvr")) == {}


def test_evaluation_covers_every_cell_once() -> None:
    choice = EnvChoice(difficulties=(1, 3))
    run = make_run("quickstart", "--evaluate.tasks-per-unit 5 --evaluate.temperature 0.5", chain=choice)
    solver = PolicyRef("main", 8)
    made = make_envs(run)
    units = evaluation_units(run, made, generation=2, step=8, solver=solver, tasks={"dev": 6, "test": 12}, samples=3)
    places = Counter((u.split, u.difficulties[r], u.first_index + r) for u in units for r in range(u.rows))
    assert set(places) == {(s, d, i) for s, n in (("dev", 6), ("test", 12)) for d in (1, 3) for i in range(n)}
    assert set(places.values()) == {1}
    assert [u.index for u in units] == list(range(len(units)))  # so that no two share a key
    assert {u.kind for u in units} == {"evaluate"} and {u.attempts for u in units} == {3}
    assert all(u.seats == {"solve": solver} and u.sampling["solve"].temperature == 0.5 for u in units)
    env = made["chain"]
    families: dict[str, set[str]] = {"dev": set(), "test": set()}
    for u in units:
        posed = [env.task(u.split, u.first_index + r, u.task_seed, difficulty=d) for r, d in enumerate(u.difficulties)]
        assert all(t.split == u.split for t in posed)
        families[u.split] |= {t.family for t in posed}
    assert not families["dev"] & families["test"]


def test_held_out_tasks_are_the_same_in_every_run() -> None:
    runs = [make_run("quickstart", f"--seed {s}", chain=EnvChoice(difficulties=(2,))) for s in (1, 2)]
    found = [
        evaluation_units(r, make_envs(r), generation=g, step=g, solver=SEATS["solve"], tasks={"dev": 4, "test": 4})
        for g, r in enumerate(runs)
    ]
    assert [(u.task_seed, u.first_index) for u in found[0]] == [(u.task_seed, u.first_index) for u in found[1]]


def test_a_small_split_is_used_up_and_not_repeated(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(f'{{"prompt": "{i}+1", "answer": "{i + 1}"}}\n' for i in range(60)))
    run = make_run("rlvr", jsonl=EnvChoice(options={"path": str(file)}))
    made = make_envs(run)
    sizes = {split: made["jsonl"].size(split) for split in ("dev", "test")}
    assert all(size and size < 50 for size in sizes.values())
    units = evaluation_units(run, made, generation=0, step=0, solver=SEATS["solve"], tasks={"dev": 50, "test": 50})
    assert {s: sum(u.rows for u in units if u.split == s) for s in sizes} == sizes
