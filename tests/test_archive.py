"""What the run remembers of its tasks: by content, in the order met, bounded, the same bits after a restore."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.base import Message, Rejection, Status, Task, Verdict
from selfplay.archive import TaskArchive
from selfplay.config import Retire
from selfplay.errors import CheckpointError
from selfplay.records import Group, PolicyRef, Role, Trajectory
from selfplay.standing import standing


def task(n: int, *, env: str = "toy", mode: str = "solve", parents: tuple[str, ...] = ()) -> Task:
    return Task(
        env=env, env_version="1", split="train", seed=n, index=-1, mode=mode, difficulty=1, content=f"task {n}",
        family=f"task {n}", prompt=(Message("user", f"{n}?"),), payload={"n": n}, origin="proposed", parents=parents,
    )  # fmt: skip


def said(role: Role, status: Status, version: int) -> Trajectory:
    return Trajectory(
        role=role, policy=PolicyRef("main", version), ids=np.zeros(1, np.int32), mask=np.ones(1, bool),
        behaviour_logprobs=np.zeros(1, np.float32), turn_starts=(0,), finish=("eos",), text="",
        verdict=Verdict(float(status == "ok"), status),
    )  # fmt: skip


def group(t: Task | None, *statuses: Status, step: int = 0, proposed: bool = True, shape: str = "s") -> Group:
    """A group on a task, attempted with these outcomes by the version of its step; None = a rejected proposal."""
    ref = PolicyRef("main", step)
    return Group(
        generation=step // 10, step=step, unit=0, row=0, kind="propose" if proposed else "solve", env="toy",
        mode="solve", split="train", task=t, rejection=Rejection("format") if t is None else None, shape=shape,
        proposal=said("propose", "ok", step) if proposed else None, seats={"propose": ref, "solve": ref},
        attempts=tuple(said("solve", s, step) for s in statuses),
    )  # fmt: skip


def test_lineage_and_record_by_hand() -> None:
    archive = TaskArchive(10)
    child = task(2, parents=(task(1).key,))
    archive.record([
        group(task(1), "ok", "wrong", "ok", "env_error", step=3, proposed=False),
        group(child, "wrong", "wrong", step=13),
        group(None, step=14),
        group(child, "ok", "wrong", "wrong", "wrong", step=25, proposed=False),
        group(child, "env_error", step=26),
    ])  # fmt: skip
    given_, made = list(archive)
    assert (given_.proposer, given_.proposed, given_.met, given_.attempts, given_.solves) == (None, 0, 1, 3, 2)
    assert given_.last_p == pytest.approx(2 / 3)
    assert made.proposer == PolicyRef("main", 13) and made.task.parents == (given_.task.key,)
    assert (made.first_generation, made.first_step, made.last_step) == (1, 13, 26)
    assert (made.proposed, made.met, made.attempts, made.solves) == (2, 3, 6, 1)
    assert made.solver == PolicyRef("main", 25) and made.last_p == 0.25  # the last group had nothing judged
    assert archive.count(child.key) == 3 and archive.novelty(child.key) == 0.25
    assert archive.count("unknown") == 0 and archive.novelty("unknown") == 1.0
    assert archive.get("unknown") is None and len(archive) == 2


def test_surface_form_seed_and_split_do_not_make_another_task() -> None:
    archive = TaskArchive(10)
    other = msgspec.structs.replace(task(1), seed=99, index=5, prompt=(Message("user", "in other words"),))
    archive.record([group(task(1)), group(other)])
    assert len(archive) == 1 and archive.count(other.key) == 2


def test_past_the_capacity_the_one_met_longest_ago_goes() -> None:
    archive = TaskArchive(3)
    archive.record([group(task(n), shape="odd" if n % 2 else "even") for n in (1, 2, 3)])
    archive.record([group(task(1), shape="odd")])  # met again: now the youngest
    archive.record([group(task(4), shape="even")])
    assert [e.task.seed for e in archive] == [3, 1, 4]
    assert archive.shape_count("odd", env="toy") == 2 and archive.shape_count("even", env="toy") == 1
    assert archive.shape_count("odd", env="other") == 0
    assert archive.count(task(2).key) == 0


def test_held_out_tasks_are_refused() -> None:
    held_out = msgspec.structs.replace(group(task(1)), split="dev")
    measured = msgspec.structs.replace(group(task(1)), kind="evaluate")
    for bad in (held_out, measured):
        with pytest.raises(ValueError, match="tasks of training only"):
            TaskArchive(3).record([bad])


def test_draws_are_distinct_of_their_kind_and_uniform() -> None:
    archive = TaskArchive(100)
    archive.record([group(task(n)) for n in range(5)])
    archive.record([group(task(n, mode="deduce")) for n in range(5)] + [group(task(7, env="b"))])
    drawn = archive.sample(3, 11, env="toy", mode="solve")
    assert len({t.key for t in drawn}) == 3 and {(t.env, t.mode) for t in drawn} == {("toy", "solve")}
    assert len(archive.sample(9, 0, env="toy", mode="solve")) == 5
    assert archive.sample(9, 0, env="nowhere", mode="solve") == []
    counts = np.zeros(5)
    for seed in range(2000):
        for t in archive.sample(2, seed, env="toy", mode="solve"):
            counts[t.seed] += 1
    np.testing.assert_allclose(counts / 4000, 0.2, atol=0.03)  # 4.7 standard deviations


def test_learnable_tasks_are_replayed_by_their_weight() -> None:
    archive = TaskArchive(100)
    solved = {0: ("ok", "ok"), 1: ("ok", "wrong"), 2: ("wrong", "wrong"), 3: ("ok", "ok", "ok", "wrong")}
    archive.record([group(task(n), *verdicts) for n, verdicts in solved.items()])
    weights = np.array([0.01, 1.01, 0.01, 0.76])  # 4 p (1 - p) + 0.01
    counts = np.zeros(4)
    for seed in range(4000):
        (first,) = archive.sample_learnable(1, seed, env="toy", mode="solve")
        counts[first.seed] += 1
    np.testing.assert_allclose(counts / 4000, weights / weights.sum(), atol=0.03)  # 3.8 standard deviations
    drawn = archive.sample_learnable(9, 5, env="toy", mode="solve")
    assert len(drawn) == 4 and drawn == archive.sample_learnable(9, 5, env="toy", mode="solve")
    archive.record([group(task(1), "ok", "ok")])  # mastered since: it is left to the others
    again = [archive.sample_learnable(1, seed, env="toy", mode="solve")[0].seed for seed in range(500)]
    assert again.count(3) > 450


def test_what_a_task_taught_by_hand() -> None:
    archive, (one, two) = TaskArchive(10), (task(1), task(2))
    both = (one.key, two.key)
    archive.record([
        group(one), group(two),
        group(task(3, parents=both), step=1),
        group(task(4, parents=(one.key, one.key, "gone")), step=1),  # shown twice, and one that was forgotten
        group(task(3, parents=(two.key,)), step=2),  # again, of another ask
        group(task(5, parents=both), step=2, proposed=False),  # replayed: nobody proposed it now
        group(task(1, parents=both), step=3),  # a copy of the one that was shown
        group(None, step=3),
    ])  # fmt: skip
    first, second = archive.get(one.key), archive.get(two.key)
    assert first is not None and second is not None
    assert (first.taught, first.children) == (2, [task(3).key, task(4).key])
    assert (second.taught, second.children) == (3, [task(3).key, one.key])
    again = TaskArchive.from_bytes(archive.to_bytes()).get(two.key)
    assert again is not None and again.children == second.children


def test_children_are_bounded_and_the_count_goes_on() -> None:
    archive, parent = TaskArchive(100), task(0)
    archive.record([group(parent)] + [group(task(n, parents=(parent.key,))) for n in range(1, 51)])
    entry = archive.get(parent.key)
    assert entry is not None and entry.taught == 50
    assert entry.children == [task(n).key for n in range(19, 51)]


def test_novelty_by_shape_and_by_cluster() -> None:
    archive = TaskArchive(3)
    other = msgspec.structs.replace(task(9), content="no such thing", family="no such thing")
    archive.record([group(task(1), shape="a"), group(task(2), shape="b"), group(task(3), shape="a"), group(other)])
    befores = [(e.task.seed, e.shape_before, e.cluster_before) for e in archive]
    assert befores == [(2, 0, 1), (3, 1, 2), (9, 0, 0)]  # tasks 1, 2, 3 are one text but for the number
    first, _, last = archive
    assert first.cluster == task(1).key and last.cluster == other.key  # the leader has left, its cluster has not
    assert archive.cluster_count(task(1)) == archive.cluster_count(first.task) == 2 and archive.clusters == [2, 1]
    assert archive.cluster_count(task(1, env="other")) == 0
    archive = TaskArchive.from_bytes(archive.to_bytes())
    assert archive.cluster_count(task(1)) == 2 and sorted(archive.clusters) == [1, 2]


def test_retired_tasks_rest_from_replay_alone_and_come_back() -> None:
    archive = TaskArchive(100, Retire(rest=10))
    archive.record([group(task(n), step=1) for n in range(4)])
    archive.record([group(task(0), *["ok"] * 40, step=2), group(task(1), *["wrong"] * 40, step=3)])
    archive.record([group(task(2), *["env_error"] * 8, step=4), group(task(3), *["ok", "wrong"] * 20, step=5)])
    assert [archive.standing(task(n).key) for n in range(4)] == ["mastered", "impossible", "unstable", "live"]
    assert archive.standings == {"live": 1, "mastered": 1, "impossible": 1, "unstable": 1}

    def replayed() -> tuple[set[int], ...]:
        draws = (archive.sample_replayable, archive.sample_learnable)
        return tuple({t.seed for t in draw(9, 0, env="toy", mode="solve")} for draw in draws)

    assert replayed() == ({3}, {3})
    assert {t.seed for t in archive.sample(9, 0, env="toy", mode="solve")} == {0, 1, 2, 3}  # still shown
    archive.record([group(task(7), step=11)])
    assert replayed() == ({3, 7},) * 2
    archive.record([group(task(8), step=12)])
    assert replayed() == ({0, 3, 7, 8},) * 2  # met ten steps ago
    archive.record([group(task(0), *["wrong"] * 9, step=13)])  # forgotten: 40 of 49
    assert archive.standing(task(0).key) == "live"
    restored = TaskArchive.from_bytes(archive.to_bytes(), retire=Retire(rest=10))
    assert restored.standings == archive.standings and restored.replayable(env="toy", mode="solve") == (
        archive.replayable(env="toy", mode="solve")
    )
    never = TaskArchive.from_bytes(archive.to_bytes(), retire=Retire(mastered=1, impossible=0, unstable=1))
    assert never.standings == {"live": 6}


def test_a_retired_task_leaves_before_one_that_replay_keeps_meeting() -> None:
    archive = TaskArchive(2)
    archive.record([group(task(1), *["ok"] * 40, step=1), group(task(2), "ok", "wrong", step=1)])
    (live,) = archive.sample_learnable(9, 0, env="toy", mode="solve")
    archive.record([group(live, "ok", "wrong", step=2, proposed=False), group(task(3), step=3)])
    assert [e.task.seed for e in archive] == [2, 3] and archive.standings == {"live": 2}


MET = st.tuples(
    st.integers(0, 8), st.lists(st.integers(0, 8), max_size=3), st.booleans(),
    st.lists(st.sampled_from(["ok", "wrong", "env_error"]), max_size=30),
)  # fmt: skip


@given(st.lists(MET, max_size=30), st.integers(1, 6), st.integers(0, 30))
def test_whatever_comes_it_is_bounded_and_its_counts_agree(
    meetings: list[tuple[int, list[int], bool, list[Status]]], capacity: int, cut: int
) -> None:
    retire = Retire(versions=2, rest=3)
    groups = [
        group(task(n, parents=tuple(task(p).key for p in parents)), *statuses, step=i, proposed=new, shape=str(n % 3))
        for i, (n, parents, new, statuses) in enumerate(meetings)
    ]
    archive, resumed = TaskArchive(capacity, retire), TaskArchive(capacity, retire)
    archive.record(groups)
    resumed.record(groups[:cut])
    resumed = TaskArchive.from_bytes(resumed.to_bytes(), retire=retire)
    resumed.record(groups[cut:])
    assert resumed.to_bytes() == archive.to_bytes() and resumed.standings == archive.standings
    assert len(archive) <= capacity and sum(archive.clusters) == len(archive) == archive.standings.total()
    for entry in archive:
        assert len(entry.tallies) <= 2 and len(set(entry.children)) == len(entry.children) <= entry.taught
        assert sum(t.attempts for t in entry.tallies) <= entry.attempts
        assert archive.standing(entry.task.key) == standing(entry.tallies, retire)
    if meetings:
        assert task(meetings[-1][0]).key in {e.task.key for e in archive}  # the newest is always held


@given(st.permutations([("ok", 1), ("wrong", 2), ("ok", 3), ("wrong", 4), ("env_error", 5)]))
def test_records_and_standings_do_not_depend_on_the_order(order: list[tuple[Status, int]]) -> None:
    def totals(meetings: list[tuple[Status, int]]) -> dict[str, object]:
        archive = TaskArchive(10, Retire(versions=3))
        archive.record([group(task(n), *[status] * 12, step=step) for status, step in meetings for n in (0, step % 2)])
        return {
            e.task.key: (e.met, e.attempts, e.solves, e.unjudged, e.tallies, archive.standing(e.task.key))
            for e in archive
        }

    assert totals(order) == totals(sorted(order))


@given(st.lists(st.integers(0, 8), max_size=40), st.integers(1, 6), st.integers(0, 40))
def test_a_restore_at_any_point_changes_nothing(seeds: list[int], capacity: int, cut: int) -> None:
    groups = [group(task(n), "ok", step=i, shape=str(n % 3)) for i, n in enumerate(seeds)]
    undisturbed, resumed = TaskArchive(capacity), TaskArchive(capacity)
    undisturbed.record(groups)
    resumed.record(groups[:cut])
    resumed = TaskArchive.from_bytes(resumed.to_bytes())
    resumed.record(groups[cut:])
    assert resumed.to_bytes() == undisturbed.to_bytes()
    for seed in range(3):
        draws = [a.sample(3, seed, env="toy", mode="solve") for a in (resumed, undisturbed)]
        assert draws[0] == draws[1]
    held = {e.task.key: e.shape for e in resumed}
    assert len(held) <= capacity
    assert all(resumed.shape_count(s, env="toy") == list(held.values()).count(s) for s in "012")
    youngest = list(dict.fromkeys(reversed(seeds)))[:capacity]
    assert [e.task.seed for e in resumed] == youngest[::-1]


def test_a_smaller_capacity_keeps_the_youngest() -> None:
    archive = TaskArchive(5)
    archive.record([group(task(n)) for n in range(5)])
    smaller = TaskArchive.from_bytes(archive.to_bytes(), capacity=2)
    assert [e.task.seed for e in smaller] == [3, 4] and smaller.capacity == 2


def test_bytes_of_another_kind_or_format_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for data in (b"", b"junk", msgspec.msgpack.encode({"format": 1})):
        with pytest.raises(CheckpointError, match="the task archive cannot be read"):
            TaskArchive.from_bytes(data)
    data = TaskArchive(1).to_bytes()
    monkeypatch.setattr("selfplay.archive.FORMAT", 3)
    with pytest.raises(CheckpointError, match="of format 2, this code reads format 3"):
        TaskArchive.from_bytes(data)


def test_an_archive_of_before_is_refused_in_one_line() -> None:
    old = msgspec.msgpack.encode({"format": 1, "capacity": 5, "entries": [{"task": {}, "shape": "s"}]})
    with pytest.raises(
        CheckpointError, match="^the task archive is of format 1, this code reads format 2: use the ver"
    ):
        TaskArchive.from_bytes(old)


def test_capacity_is_at_least_one() -> None:
    with pytest.raises(ValueError, match="capacity must be >= 1, got 0"):
        TaskArchive(0)
