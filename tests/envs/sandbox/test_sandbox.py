"""The sandbox as others use it: what comes back, how soon, and that nothing stays behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.family import family
from envs.sandbox import Sandbox, SandboxRefused, pool
from envs.sandbox.inside.seccomp import ARCHES, assemble
from envs.sandbox.result import result_of
from envs.sandbox.worker import CannotStart, Ended, Tier, Worker


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workers=2) as box:
        yield box


PROGRAM = """
from collections import Counter, deque
from dataclasses import dataclass
import heapq, itertools, math, re

@dataclass(order=True)
class Point:
    x: int
    y: int = 0

def words(text):
    return Counter(re.findall(r"[a-z]+", text.lower())).most_common(2)

def near(points):
    heap = [Point(*p) for p in points]
    heapq.heapify(heap)
    return [(p.x, p.y) for p in sorted(heap)]

def lazy(n):
    return list(itertools.islice((k * k for k in itertools.count()), n))
"""


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("words('The cat, the dog')", "[('the', 2), ('cat', 1)]"),
        ("near([(2, 1), (1, 5)])", "[(1, 5), (2, 1)]"),
        ("lazy(n=4)", "[0, 1, 4, 9]"),
        (" {'b': {2, 1}, 'a': None} ", "{'a': None, 'b': {1, 2}}"),
        ("math.inf", "1e999"),
        ("'\\u00e9\\n'", "'\u00e9\\n'"),
    ],
)
def test_honest_programs(sandbox: Sandbox, call: str, text: str) -> None:
    result = sandbox.run(PROGRAM, call, timeout_s=10.0)
    assert (result.status, result.text) == ("ok", text)
    assert 0 < result.wall_s < 10 and 2**20 < result.peak_bytes < 2**29


@pytest.mark.parametrize(
    ("program", "call", "status"),
    [
        ("", "1 / 0", "error"),
        ("def f(:", "1", "error"),
        ("", "f(", "error"),
        ("", "x = 1", "error"),
        ("\0", "1", "error"),
        ("import numpy", "1", "error"),
        ("", "lambda: 1", "rejected"),
        ("", "float('nan')", "rejected"),
        ("\ud800", "1", "rejected"),
        ("#" * 200_000, "1", "rejected"),
        ("", "10 ** 5000", "limit"),
        ("", "'x' * 10 ** 12", "limit"),
    ],
)
def test_what_a_model_writes_is_data(sandbox: Sandbox, program: str, call: str, status: str) -> None:
    result = sandbox.run(program, call, timeout_s=10.0)
    assert result.status == status
    assert result.text.isascii() and result.text.isprintable() and 0 < len(result.text) <= 200


def test_back_in_time(sandbox: Sandbox) -> None:
    start = time.monotonic()
    assert sandbox.run("while True: pass", "1", timeout_s=0.2).status == "timeout"
    assert time.monotonic() - start < 1.2


def test_grade_by_the_policy(sandbox: Sandbox) -> None:
    program = "def f(x):\n    return {x, 1}\n"
    assert sandbox.grade(program, "f(2)", "{2, 1}", timeout_s=10.0)
    assert not sandbox.grade(program, "f(2)", "[1, 2]", timeout_s=10.0)
    assert not sandbox.grade(program, "f(2)", "no literal(", timeout_s=10.0)
    assert not sandbox.grade("", "True", "1", timeout_s=10.0)


def test_deterministic(sandbox: Sandbox) -> None:
    assert sandbox.deterministic("def f(x):\n    return sorted({str(x), 'a'})", "f(1)", timeout_s=10.0)
    assert not sandbox.deterministic("", "list({'a', 'b', 'c', 'd', 'e', 'f'})", timeout_s=10.0)
    assert not sandbox.deterministic("", "1 / 0", timeout_s=10.0)
    seeded = "import random\ndef f():\n    return random.Random(3).random()\n"
    assert sandbox.deterministic(seeded, "f()", timeout_s=10.0)


def test_threads_may_share_it(sandbox: Sandbox) -> None:
    with ThreadPoolExecutor(6) as threads:
        results = threads.map(lambda n: sandbox.run("", f"{n} * 2", timeout_s=10.0).text, range(24))
        assert list(results) == [str(n * 2) for n in range(24)]


def test_a_lost_worker_is_replaced(sandbox: Sandbox) -> None:
    with sandbox._lock:
        victims = list(sandbox._idle)
    for victim in victims:
        victim._process.kill()
        victim._process.wait()
    statuses = {sandbox.run("", "1", timeout_s=10.0).status for _ in range(len(victims) + 4)}
    assert statuses <= {"ok", "timeout"}
    assert sandbox.run("", "1", timeout_s=10.0).status == "ok"


def descendants() -> set[int]:
    """Processes that came from this one, at any depth."""
    return set(family()) - {os.getpid()}


def wait_for(condition: object, timeout_s: float = 10.0) -> bool:
    assert callable(condition)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_nothing_stays_behind() -> None:
    processes, files, threads = descendants(), set(os.listdir("/proc/self/fd")), threading.active_count()
    box = Sandbox(workers=1)
    for n in range(20):
        box.run("", f"{n}", timeout_s=10.0)
    assert descendants() > processes
    box.close()
    assert wait_for(lambda: descendants() <= processes)
    assert set(os.listdir("/proc/self/fd")) <= files and threading.active_count() == threads
    with pytest.raises(pool.SandboxBroken, match="closed"):
        box.run("", "1")


def test_workers_end_with_a_killed_trainer() -> None:
    code = (
        "from envs.sandbox import Sandbox; box = Sandbox(); print(box._idle[0]._process.pid, flush=True)\n"
        "box.run('while True: pass', '1', timeout_s=60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        worker = Path(f"/proc/{int(trainer.stdout.readline())}")
        assert worker.exists()
        trainer.kill()
    assert wait_for(lambda: not worker.exists() or ") Z " in (worker / "stat").read_text())


def test_a_tier_that_does_not_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(tier: Tier) -> Worker:
        raise CannotStart("the kernel said no")

    monkeypatch.setattr(pool, "Worker", refuse)
    with pytest.raises(SandboxRefused, match="A: the kernel said no; B: .*; C: .*unsafe") as caught:
        Sandbox()
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(pool.sys, "platform", "darwin")
    with pytest.raises(SandboxRefused, match="needs Linux"):
        Sandbox()


def test_walls_that_do_not_hold_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def bare(tier: Tier) -> Worker:
        return Worker("unsafe")

    monkeypatch.setattr(pool, "Worker", bare)
    with pytest.raises(SandboxRefused, match="a canary gave"):
        Sandbox(tier="C")


def test_unsafe_must_be_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    with Sandbox(workers=1, tier="unsafe") as box:
        assert box.tier == "unsafe" and "NO WALLS" in caplog.text
        assert box.run("import os", "os.getpid() > 0", timeout_s=10.0).text == "True"
        assert box.run("while True: pass", "1", timeout_s=0.2).status == "timeout"


@pytest.mark.parametrize(
    ("options", "message"),
    [({"workers": 0}, "workers must be >= 1"), ({"tier": "D"}, "no sandbox tier 'D'"), ({"memory_bytes": 1}, "memory")],
)
def test_bad_arguments(options: dict[str, object], message: str) -> None:
    with pytest.raises(SandboxRefused, match=message):
        Sandbox(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("frame", [b"", b"X", b"V", b"VT" * 2, b"E\xff\n\x1b[m", b"V" + b"s\xff\xff\xff\xff"])
def test_any_frame_has_a_result(frame: bytes) -> None:
    result = result_of(Ended(0, False, 0.1, 1, frame))
    assert result.status == "error" and result.text.isprintable()
    assert result_of(Ended(0, True, 0.1, 1, b"VT")).status == "timeout"
    assert result_of(Ended(9, False, 0.1, 1, b"VT")).status == "limit"
    assert result_of(Ended(256, False, 0.1, 1, b"VT")).status == "error"


@pytest.mark.parametrize("machine", ARCHES)
def test_the_filter_is_well_formed(machine: str) -> None:
    code = assemble(machine)
    count = len(code) // 8
    assert len(code) % 8 == 0 and count < 4096
    for at in range(count):
        if code[8 * at] & 7 == 5:  # a jump
            assert at + 1 + max(code[8 * at + 2], code[8 * at + 3]) < count
