"""The same groups from any number of actors, and one clear line when something goes wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import toy_worker
from toy_worker import ENTRY, unit, weights

from selfplay.cluster import InProcess, LocalCluster, inprocess, open_cluster
from selfplay.cluster.base import Cluster, build_worker
from selfplay.cluster.local import actor_environment
from selfplay.errors import ActorError
from selfplay.records import PolicyRef, Unit, encode

SPEC = {"greeting": "hello"}


def local(actors: int, *, timeout_s: float = 30.0, entry: str = ENTRY, logs: Path | None = None) -> LocalCluster:
    return LocalCluster(actors, entry, SPEC, threads=1, timeout_s=timeout_s, log_folder=logs)


@pytest.fixture(scope="module")
def pair() -> Iterator[LocalCluster]:
    """Two actors that hold main@0, for the tests that break nothing."""
    with local(2) as cluster:
        cluster.publish("main", 0, weights(0.5))
        yield cluster


def alive(pid: int) -> bool:
    """Whether a process runs: a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], object], *, within_s: float = 10.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


def work(cluster: Cluster) -> bytes:
    """Two versions, units of uneven length, versions retired: the bytes of all groups in the order they came."""
    cluster.publish("main", 0, weights(0.5))
    units = [unit(i, do="sleep", s=0.06 if i % 3 == 0 else 0.0) for i in range(7)]
    seen = [(u.index, groups) for u, groups, _ in cluster.run(units)]
    cluster.publish("main", 1, weights(0.25))
    seen += [(u.index, groups) for u, groups, _ in cluster.run([unit(0, version=1), unit(1, version=0)])]
    cluster.retire("main", [1])
    seen += [(u.index, groups) for u, groups, _ in cluster.run([unit(0, version=1)])]
    with pytest.raises(ValueError, match="unit 4 of step 7 seats main@0 as solve: not published"):
        cluster.run([unit(4, version=0)])
    cluster.close()
    assert [i for i, _ in seen] == [0, 1, 2, 3, 4, 5, 6, 0, 1, 0]
    assert seen[0][1][1].proposal is not None
    np.testing.assert_array_equal(seen[0][1][1].proposal.behaviour_logprobs, [6.0, 0.0, 1.0])
    return encode(seen)


def test_same_groups_with_zero_one_and_three_actors() -> None:
    results = {k: work(open_cluster(k, ENTRY, SPEC, threads=1, timeout_s=30.0)) for k in (0, 1, 3)}
    assert results[0] == results[1] == results[3]


def test_actors_work_in_parallel_and_timings_say_so(pair: LocalCluster) -> None:
    pair.settle()
    start = time.monotonic()
    results = list(pair.run([unit(i, do="sleep", s=1.0) for i in range(2)]))
    assert time.monotonic() - start < 1.8
    assert {t["actor"] for _, _, t in results} == {0.0, 1.0}
    assert all(1.0 <= t["run_s"] <= t["total_s"] and t["toy_s"] == 0.5 for _, _, t in results)


def test_a_run_given_up_does_not_leak_into_the_next(pair: LocalCluster) -> None:
    for u, _, _ in pair.run([unit(i, do="sleep", s=0.05) for i in range(6)]):
        if u.index == 1:
            break
    assert [u.index for u, _, _ in pair.run([unit(10), unit(11)])] == [10, 11]


def test_two_runs_at_once_are_refused(pair: LocalCluster) -> None:
    first = pair.run([unit(0), unit(1)])
    next(first)
    assert next(pair.run([unit(5)]))[0].index == 5
    with pytest.raises(ValueError, match="another run"):
        next(first)


def test_a_published_version_never_changes(pair: LocalCluster) -> None:
    with pytest.raises(ValueError, match="main@0 is published already"):
        pair.publish("main", 0, weights(3.0))


def test_threads_and_platform_are_set_before_the_actor_starts(pair: LocalCluster) -> None:
    (_, groups, _), *_ = pair.run([unit(0, do="environment")])
    assert groups[0].proposal is not None and groups[0].proposal.text.endswith("threads 1")


def test_actors_wait_to_be_told_what_they_are_and_leave_untold() -> None:
    with LocalCluster(1, ENTRY, threads=1) as cluster:
        cluster.begin(SPEC)
        cluster.publish("main", 0, weights(0.5))
        assert next(cluster.run([unit(3)]))[0].index == 3
    with LocalCluster(2, ENTRY, threads=1) as untold:
        pids = [a.process.pid for a in untold._actors]
    assert not any(alive(pid) for pid in pids)


def test_environment_of_an_actor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8 --xla_cpu_enable_fast_math=false")
    env = actor_environment(3, "cpu")
    assert (env["NPROC"], env["OMP_NUM_THREADS"], env["JAX_PLATFORMS"]) == ("3", "3", "cpu")
    assert env["XLA_FLAGS"] == "--xla_cpu_enable_fast_math=false"


def failure(cluster: LocalCluster, *units: Unit) -> ActorError:
    """The error of a run; afterwards every actor is gone and the cluster closed."""
    pids = [a.process.pid for a in cluster._actors]
    with pytest.raises(ActorError) as caught:
        cluster.publish("main", 0, weights(1.0))
        list(cluster.run(units))
    assert "\n" not in str(caught.value)
    assert not any(alive(pid) for pid in pids)
    with pytest.raises(ActorError, match="the cluster is closed"):
        cluster.run([unit(0)])
    return caught.value


def test_a_killed_actor_is_named_with_signal_unit_and_last_words() -> None:
    error = failure(local(2), unit(0), unit(1, do="die"), unit(2))
    assert str(error).endswith(
        "was killed by signal 9 (SIGKILL) in unit 1 of step 7 (propose toy); its last words: about to die"
    )


def test_an_exception_in_the_worker_carries_its_traceback() -> None:
    error = failure(local(1), unit(0), unit(3, do="raise"))
    expected = "actor 0 failed: ArithmeticError: unit 3 cannot be done in unit 3 of step 7 (propose toy)"
    assert str(error) == expected
    assert "toy_worker.py" in error.__notes__[0] and "in run" in error.__notes__[0]


def test_a_worker_that_cannot_be_built() -> None:
    assert str(failure(local(1, entry="toy_worker:broken"), unit(0))) == ("actor 0 failed: LookupError: no model hello")
    assert "No module named 'nowhere'" in str(failure(local(1, entry="nowhere:make"), unit(0)))


def test_a_unit_past_its_deadline() -> None:
    start = time.monotonic()
    cluster = local(1, timeout_s=5.0)
    cluster.settle()
    cluster._timeout_s = 0.5
    error = failure(cluster, unit(2, do="sleep", s=60))
    assert str(error).startswith("actor 0 gave no answer within 0.5 s in unit 2 of step 7 (propose toy)")
    assert time.monotonic() - start < 5


def test_a_broken_frame() -> None:
    assert "actor 0 sent a broken frame" in str(failure(local(1), unit(0, do="junk")))


def test_a_broken_frame_to_an_actor() -> None:
    cluster = local(1)
    cluster.settle()
    cluster._actors[0].pipe.send_bytes(b"junk")
    assert "its last words: a broken frame came from the learner" in str(failure(cluster, unit(0)))


def test_damaged_weights_are_refused_by_the_actor() -> None:
    cluster = local(1)
    os.kill(cluster._actors[0].process.pid, signal.SIGSTOP)  # so that it reads only after the damage
    cluster.publish("main", 5, weights(1.0))
    file = Path(cluster._sheets[PolicyRef("main", 5)].file)
    data = bytearray(file.read_bytes())
    data[3] ^= 1
    file.write_bytes(data)
    os.kill(cluster._actors[0].process.pid, signal.SIGCONT)
    assert "actor 0 failed: ActorError: weights main@5.bin have digest" in str(failure(cluster, unit(0)))
    assert not file.exists()


def test_memory_is_given_back_when_a_version_goes_and_not_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(inprocess, "trim", lambda: given.append(1))
    cluster = InProcess(build_worker(ENTRY, SPEC))
    cluster.publish("main", 0, weights(0.5))
    cluster.retire("main", [0])
    assert given == []
    cluster.retire("main", [])
    assert given == [1]


def test_a_file_goes_once_its_version_is_retired(pair: LocalCluster) -> None:
    pair.publish("other", 1, weights(1.0))
    file = Path(pair._sheets[PolicyRef("other", 1)].file)
    pair.retire("other", [])
    pair.settle()
    assert not file.exists()
    assert len(list(pair.run([unit(0)]))) == 1


def test_close_ends_an_actor_in_the_middle_of_a_unit_with_its_children(tmp_path: Path) -> None:
    cluster = local(1)
    cluster.publish("main", 0, weights(1.0))
    file = str(tmp_path / "pids")
    run = cluster.run([unit(0), unit(1), unit(2, do="child", file=file)])
    next(run)
    next(run)
    cluster._dispatch(cluster._runs, [unit(2, do="child", file=file)], 0, 0)  # as the next `next` would
    wait_until(lambda: (tmp_path / "pids").exists() and (tmp_path / "pids").read_text().count(" "))
    start = time.monotonic()
    cluster.close()
    cluster.close()
    assert time.monotonic() - start < 2
    pids = [int(p) for p in (tmp_path / "pids").read_text().split()]
    wait_until(lambda: not any(alive(p) for p in pids), within_s=2)


LEARNER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell starts us with it ignored
from selfplay.cluster import LocalCluster
from toy_worker import ENTRY, unit, weights
cluster = LocalCluster(1, ENTRY, {"greeting": "hello"}, threads=1)
cluster.publish("main", 0, weights(1.0))
print(next(iter(cluster._store._folders.values()))[0].name, flush=True)
list(cluster.run([unit(0, do="child", file=sys.argv[1])]))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_no_orphans_when_the_learner_is_killed_or_interrupted(tmp_path: Path, how: signal.Signals) -> None:
    pids = tmp_path / "pids"
    learner = subprocess.Popen(
        [sys.executable, "-c", LEARNER, str(pids)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    wait_until(lambda: pids.exists() and pids.read_text().count(" "), within_s=20)
    started = [int(p) for p in pids.read_text().split()]
    assert all(alive(p) for p in started)
    learner.send_signal(how)
    out, err = learner.communicate(timeout=10)
    wait_until(lambda: not any(alive(p) for p in started))
    weights_folder = Path(out.strip())
    if how == signal.SIGINT:
        assert err.strip().endswith("KeyboardInterrupt")
    LocalCluster(1, ENTRY, SPEC, threads=1).close()  # the next start sweeps what a killed one left
    assert not weights_folder.exists()


def test_big_weights_are_published_quickly(pair: LocalCluster) -> None:
    params = {"layer": {"w": np.arange(12_500_000, dtype=np.float32)}}  # 50 MB
    start = time.monotonic()
    pair.publish("big", 0, params)
    written = time.monotonic() - start
    pair.settle()
    print(f"50 MB to 2 actors: written in {written:.3f} s, confirmed by both after {time.monotonic() - start:.3f} s")
    pair.retire("big", [])
    assert time.monotonic() - start < 5


def test_in_process_hands_arrays_over_as_they_are() -> None:
    worker = build_worker(ENTRY, SPEC)
    assert isinstance(worker, toy_worker.Toy)
    cluster, params = InProcess(worker), weights(1.0)
    cluster.publish("main", 0, params)
    assert worker.params[PolicyRef("main", 0)]["layer"]["w"] is params["layer"]["w"]
    cluster.close()
    assert not worker.params
