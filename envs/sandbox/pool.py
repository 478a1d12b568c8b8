"""`Sandbox`: runs programs that a model wrote, and compares what they give. The only part that others import."""

from __future__ import annotations

import logging
import platform
import sys
import threading
from types import TracebackType
from typing import Literal, get_args

from envs.base import EnvError, EnvUserError
from envs.sandbox import canaries, wire
from envs.sandbox.result import Result, result_of
from envs.sandbox.values import NotPlain, canonical_literal
from envs.sandbox.worker import TIERS, CannotStart, Tier, Worker

LOG = logging.getLogger("envs.sandbox")

Choice = Literal["auto", "A", "B", "C", "unsafe"]

WITNESSES = 8
"""Workers that must agree before a call counts as deterministic. They share no hash seed, date, random state or address
layout; one bit of any of these is the same in all by luck once in 2^7."""
RUNS_PER_WORKER = 10_000
MEMORY_BYTES = 512 * 2**20
MACHINES = ("x86_64", "aarch64")
CANARY_TIMEOUT_S = 5.0
START_TRIES = 3


class SandboxRefused(EnvUserError):
    """This machine cannot hold untrusted programs in the way that was asked for."""


class SandboxBroken(EnvError):
    """Workers no longer start: the machine's fault, never a program's."""


class Sandbox:
    """Pre-forked workers behind walls. Threads may share one; at most `workers` runs go on at a time.

    with Sandbox() as sandbox:
        sandbox.run("def f(x): return x + 1", "f(1)", timeout_s=1.0)   # Result(status="ok", text="2", ...)
    """

    def __init__(self, workers: int = 2, *, tier: Choice = "auto", memory_bytes: int = MEMORY_BYTES) -> None:
        """Start the first worker, and the others in the background.

        Args:
          workers: runs that may go on at a time; one for each core that they may use.
          tier: "auto" takes the strongest of A, B, C that holds here; a letter that one or nothing; "unsafe" runs
            without walls where a person wants it so.
          memory_bytes: address space of one run.

        Raises:
          SandboxRefused: no such tier here, or a bad argument.
        """
        _check(workers, tier, memory_bytes)
        self._memory_bytes = memory_bytes
        self._lock = threading.Condition()
        self._idle: list[Worker] = []
        self._size = max(workers, WITNESSES)
        self._alive = 1
        self._running, self._most = 0, workers
        self._closed = False
        self._broken = ""
        self.tier: Tier
        """The walls that hold: see docs/sandbox.md."""
        self.tier, first = _strongest(TIERS[:3] if tier == "auto" else (tier,), memory_bytes)
        self._idle.append(first)
        self._announce(first)
        self._keeper = threading.Thread(target=self._keep, name="sandbox-keeper", daemon=True)
        self._keeper.start()

    def _announce(self, first: Worker) -> None:
        LOG.log(
            logging.WARNING if self.tier == "unsafe" else logging.INFO,
            "sandbox tier %s (%s), clock %s",
            self.tier,
            "NO WALLS: programs can do what this process can" if self.tier == "unsafe" else "canaries held",
            "stopped" if first.stopped_clock else "running: programs that read it may count as deterministic",
        )

    def run(self, program: str, call: str, *, timeout_s: float = 2.0) -> Result:
        """What an expression gives after a program was executed, in a process of its own.

        Never raises on what a model wrote. Back within timeout_s + 1 s of getting a worker.
        """
        return self._run(program, call, timeout_s, self._take(avoid=()))

    def grade(self, program: str, call: str, expected: str, *, timeout_s: float = 2.0) -> bool:
        """Whether a call gives the expected value, which never enters a worker.

        Args:
          expected: a Python literal; equality is that of canonical texts (values.py). No literal: nothing equals it.
        """
        try:
            wanted = canonical_literal(expected)
        except NotPlain:
            return False
        result = self.run(program, call, timeout_s=timeout_s)
        return result.status == "ok" and result.text == wanted

    def deterministic(self, program: str, call: str, *, timeout_s: float = 2.0) -> bool:
        """Whether a call gives one and the same value in `WITNESSES` workers, byte for byte.

        Back within `WITNESSES` x timeout_s + 1 s; the first run that gives no value, or another one, ends it.
        """
        used: list[Worker] = []
        text: str | None = None
        for _ in range(WITNESSES):
            worker = self._take(avoid=used)
            used.append(worker)
            result = self._run(program, call, timeout_s, worker)
            if result.status != "ok" or text not in (None, result.text):
                return False
            text = result.text
        return True

    def _run(self, program: str, call: str, timeout_s: float, worker: Worker) -> Result:
        """One run on a worker that was taken; gives it back, or up."""
        healthy = False
        try:
            if not 0 < timeout_s <= 3600:
                raise ValueError(f"timeout_s must be above 0 and at most 3600, got {timeout_s}")
            request = _request(program, call)
            if isinstance(request, Result):
                healthy = True
                return request
            ended = worker.run(request, timeout_s=timeout_s, memory_bytes=self._memory_bytes)
            if ended is None:
                return Result("timeout", "its worker was lost")
            healthy = worker.runs < RUNS_PER_WORKER
            return result_of(ended)
        finally:
            self._give(worker, healthy=healthy)

    def _take(self, *, avoid: list[Worker] | tuple[()]) -> Worker:
        """An idle worker that is not among some, once a run may start."""
        with self._lock:
            while True:
                if self._closed:
                    raise SandboxBroken("the sandbox is closed")
                if self._broken:
                    raise SandboxBroken(f"sandbox workers no longer start: {self._broken}")
                free = [w for w in self._idle if w not in avoid] if self._running < self._most else []
                if free:
                    self._running += 1
                    self._idle.remove(free[-1])
                    return free[-1]
                self._lock.wait()

    def _give(self, worker: Worker, *, healthy: bool) -> None:
        if not healthy:
            worker.kill()
        with self._lock:
            self._running -= 1
            if healthy and not self._closed:
                self._idle.append(worker)
            else:
                self._alive -= 1
            self._lock.notify_all()
        if healthy and self._closed:
            worker.kill()

    def _keep(self) -> None:
        """The keeper's thread: start workers until there are enough, again whenever one was given up."""
        while True:
            with self._lock:
                while self._alive >= self._size and not self._closed:
                    self._lock.wait()
                if self._closed:
                    return
                self._alive += 1
            worker, why = self._start_patiently()
            with self._lock:
                if worker is None:
                    self._broken = why
                else:
                    self._idle.append(worker)
                self._lock.notify_all()
            if worker is None:
                return

    def _start_patiently(self) -> tuple[Worker | None, str]:
        """A worker, or why there is none after several tries: a machine can be short of processes for a moment."""
        why = ""
        for _ in range(START_TRIES):
            try:
                return _trusted(self.tier, self._memory_bytes), ""
            except (CannotStart, OSError) as error:
                why = str(error)
        return None, why

    def close(self) -> None:
        """End all workers. Runs that go on are finished first."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        self._keeper.join()
        with self._lock:
            while self._running:
                self._lock.wait()
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.kill()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check(workers: int, tier: str, memory_bytes: int) -> None:
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        here = f"{platform.system()} on {platform.machine()}"
        raise SandboxRefused(f"the sandbox needs Linux on {' or '.join(MACHINES)}; this is {here}")
    if workers < 1:
        raise SandboxRefused(f"sandbox workers must be >= 1, got {workers}")
    if tier not in get_args(Choice):
        raise SandboxRefused(f"no sandbox tier {tier!r}; valid: {', '.join(get_args(Choice))}")
    if memory_bytes < 128 * 2**20:
        raise SandboxRefused(f"sandbox memory_bytes must be >= {128 * 2**20}, got {memory_bytes}")


def _strongest(tiers: tuple[Tier, ...], memory_bytes: int) -> tuple[Tier, Worker]:
    """The first tier of some that holds, tried out, and its first worker."""
    reasons = []
    for tier in tiers:
        try:
            return tier, _trusted(tier, memory_bytes)
        except CannotStart as error:
            reasons.append(f"{tier}: {error}")
            LOG.info("sandbox tier %s does not hold here: %s", tier, error)
    raise SandboxRefused(
        f"this machine cannot hold untrusted programs ({'; '.join(reasons)}); "
        "the tier 'unsafe' runs them without walls, for toy runs only"
    )


def _trusted(tier: Tier, memory_bytes: int) -> Worker:
    """A worker that withstood the canaries."""
    worker = Worker(tier)
    for program, call, wanted in (canaries.HONEST, *((canaries.ATTACK,) if tier != "unsafe" else ())):
        request = wire.request(program.encode(), call.encode())
        ended = worker.run(request, timeout_s=CANARY_TIMEOUT_S, memory_bytes=memory_bytes)
        result = result_of(ended) if ended else Result("error", "the worker died")
        if (result.status, result.text) != ("ok", wanted):
            worker.kill()
            raise CannotStart(f"a canary gave {result.status}: {result.text}")
    return worker


def _request(program: str, call: str) -> bytes | Result:
    """The bytes to send, or what to say of texts that no Python can read."""
    try:
        sources = program.encode("utf-8"), call.encode("utf-8")
    except UnicodeEncodeError:
        return Result("rejected", "a lone surrogate is no text")
    if max(map(len, sources)) > wire.MAX_SOURCE:
        return Result("rejected", f"longer than {wire.MAX_SOURCE} bytes")
    return wire.request(*sources)
