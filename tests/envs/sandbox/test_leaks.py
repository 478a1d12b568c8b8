"""Nothing grows, however many programs have run: processes, descriptors, threads, and memory of parent and workers."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from benchmarks.family import resident_bytes
from envs.sandbox import Sandbox, pool

KINDS = (
    ("def f(x):\n    return [x] * 50", "f({n})", "ok"),
    ("", "{{'n': {n}, 'text': 'x' * {n}}}", "ok"),
    ("def f(x):\n    return f(x + 1)", "f({n})", "error"),
    ("raise SystemExit({n})", "1", "error"),
    ("", "10 ** (5000 + {n})", "limit"),
    ("", "bytearray(10 ** 9)", "limit"),
    ("", "lambda: {n}", "rejected"),
    ("while True: pass", "{n}", "timeout"),
)
"""Program, call, and what comes of it."""
EVERY = {"timeout": 40, "limit": 4}
"""These cost most: of so many turns only one is theirs, the others go to the first kind."""


class Held(NamedTuple):
    """What this process and those that came from it hold now."""

    processes: int
    descriptors: int
    threads: int
    memory_mb: float
    """Resident, of this process."""
    largest_mb: float
    """Resident, of the largest of the others."""


def held() -> Held:
    resident = resident_bytes()
    own = resident.pop(os.getpid())
    descriptors = len(os.listdir("/proc/self/fd"))
    return Held(len(resident), descriptors, threading.active_count(), own / 2**20, max(resident.values()) / 2**20)


def settled(box: Sandbox) -> Held:
    """What is held once every worker is idle: those that were given up are replaced by then."""
    deadline = time.monotonic() + 30.0
    while len(box._idle) < box._size and time.monotonic() < deadline:
        time.sleep(0.05)
    return held()


def one(box: Sandbox, number: int) -> None:
    program, call, status = KINDS[number % len(KINDS)]
    if (number // len(KINDS)) % EVERY.get(status, 1):
        program, call, status = KINDS[0]
    result = box.run(program, call.format(n=number % 1000), timeout_s=0.03 if status == "timeout" else 20.0)
    assert result.status == status, (program, call, result)


def grown(runs: int) -> tuple[Held, Held]:
    """What is held after a tenth of so many runs, and after all of them."""
    with Sandbox(workers=2) as box, ThreadPoolExecutor(2) as threads:
        assert box.deterministic("", "1", timeout_s=20.0)  # all workers are up
        for number in range(runs // 10):
            one(box, number)
        list(threads.map(lambda number: one(box, number), range(4)))
        before = settled(box)
        for first in range(0, runs, 1000):
            list(threads.map(lambda number: one(box, number), range(first, min(first + 1000, runs))))
        return before, settled(box)


@pytest.mark.parametrize("runs", [400, pytest.param(100_000, marks=pytest.mark.proof)])
def test_nothing_grows(runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "RUNS_PER_WORKER", min(pool.RUNS_PER_WORKER, runs // 3))  # workers are replaced, too
    before, after = grown(runs)
    assert after[:3] == before[:3]
    assert after.memory_mb - before.memory_mb < 4 and after.largest_mb - before.largest_mb < 4, (before, after)
