"""K actor processes on this machine: units go to whichever is free, groups come back in unit order.

An actor is a fresh Python process with one socket to the learner; it dies with the learner, and anything wrong with
it ends the run with one line. Nothing here waits without a deadline.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from selfplay.cluster.base import Params, Result, check_refs
from selfplay.cluster.messages import Done, Drop, Failed, Load, Loaded, Ready, Run, Start, Stop, ToActor, ToLearner
from selfplay.cluster.weights import Sheet, WeightStore
from selfplay.errors import ActorError
from selfplay.records import PolicyRef, Unit, decode, encode

_STALL_S = 60  # a frame that has begun must go on within this time
_GRACE_S = 3.0  # for an actor to leave in good order
_TAIL = 5  # last lines of an actor's log that an error quotes
_AHEAD = 4  # units an actor that may be finished before their turn


@dataclass
class _Job:
    """A unit on its way: which run of the cluster it belongs to, and its place there."""

    run: int
    place: int
    unit: Unit
    sent: float


@dataclass
class _Actor:
    index: int
    process: subprocess.Popen[bytes]
    pipe: Connection
    log: Path
    heard: float
    """When it last said something, or was first given something to do (monotonic seconds)."""
    ready: bool = False
    loading: set[PolicyRef] = field(default_factory=set)
    confirmed: set[PolicyRef] = field(default_factory=set)
    job: int | None = None

    @property
    def owes(self) -> bool:
        """Whether the learner waits for a message from it."""
        return not self.ready or bool(self.loading) or self.job is not None


class LocalCluster:
    """Actor processes behind the `Cluster` protocol.

    They start at once and in parallel, and import what they need; the first `run` waits for them.

    Args:
      actors: K, 1 or more.
      entry: `module:function` that builds the worker in each actor.
      spec: its argument: what msgpack can hold; None = they wait for `begin`.
      threads: CPU threads of each actor; set before it imports anything.
      timeout_s: longest wait for one unit, one version or the start.
      platform: `JAX_PLATFORMS` of the actors.
      log_folder: where `actor-0.log`, ... are written (stdout and stderr); None = a private
        folder, gone after `close`.
    """

    def __init__(
        self,
        actors: int,
        entry: str,
        spec: Mapping[str, Any] | None = None,
        *,
        threads: int,
        timeout_s: float = 600.0,
        platform: str = "cpu",
        log_folder: Path | None = None,
    ) -> None:
        if actors < 1:
            raise ValueError(f"a local cluster has >= 1 actors, got {actors}")
        self._timeout_s = timeout_s
        self._store = WeightStore()
        self._sheets: dict[PolicyRef, Sheet] = {}
        self._retired: dict[PolicyRef, Sheet] = {}
        self._jobs: dict[int, _Job] = {}
        self._results: dict[int, Result] = {}
        self._runs = self._last_job = 0
        self._actors: list[_Actor] = []
        self._closed = False
        folder = log_folder or self._store.folder()
        folder.mkdir(parents=True, exist_ok=True)
        environment = actor_environment(threads, platform)
        for index in range(actors):
            self._actors.append(_start(index, folder / f"actor-{index}.log", environment, entry))
        if spec is not None:
            self.begin(spec)

    def begin(self, spec: Mapping[str, Any]) -> None:
        """Have every actor build its worker of `spec`; once, before anything is published."""
        for actor in self._actors:
            actor.heard = time.monotonic()
            self._send(actor, Start(dict(spec)))

    def publish(self, policy: str, version: int, params: Params) -> None:
        """Write a version and tell every actor; returns without waiting for them."""
        self._check_open()
        ref = PolicyRef(policy, version)
        if ref in self._sheets or ref in self._retired:
            raise ValueError(f"{policy}@{version} is published already")
        sheet = self._sheets[ref] = self._store.write(f"{policy}@{version}", params)
        for actor in self._actors:
            self._expect(actor)
            actor.loading.add(ref)
            self._send(actor, Load(ref, sheet))

    def retire(self, policy: str, keep_versions: Collection[int]) -> None:
        self._check_open()
        for ref in [r for r in self._sheets if r.policy == policy and r.version not in keep_versions]:
            self._retired[ref] = self._sheets.pop(ref)
            for actor in self._actors:
                self._send(actor, Drop(ref))
                actor.confirmed.discard(ref)
        self._remove_retired()

    def settle(self) -> None:
        """Wait until every actor is ready and has confirmed every version; not needed before `run`."""
        self._check_open()
        while any(not a.ready or a.loading for a in self._actors):
            self._pump()

    def run(self, units: Sequence[Unit]) -> Iterator[Result]:
        self._check_open()
        check_refs(units, self._sheets)
        return self._run(list(units))

    def close(self) -> None:
        """Ask every actor to leave, end those that do not within seconds, remove all files."""
        if self._closed:
            return
        self._closed = True
        for actor in self._actors:
            _say(actor, Stop())
        deadline = time.monotonic() + (0.0 if any(a.owes for a in self._actors) else _GRACE_S)
        for actor in self._actors:
            _end(actor, deadline)
        self._store.close()

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, units: list[Unit]) -> Iterator[Result]:
        self._runs += 1
        this, sent = self._runs, 0
        self._results.clear()
        for place in range(len(units)):
            self._check_run(this)
            sent = self._dispatch(this, units, sent, place)
            while place not in self._results:
                self._pump()
                self._check_run(this)
                sent = self._dispatch(this, units, sent, place)
            yield self._results.pop(place)

    def _check_run(self, this: int) -> None:
        self._check_open()
        if self._runs != this:
            raise ValueError("another run of this cluster was begun before this one was used up")

    def _dispatch(self, this: int, units: list[Unit], sent: int, place: int) -> int:
        """Give units to free actors; returns how many of the run have been given out."""
        limit = min(len(units), place + _AHEAD * len(self._actors))
        while sent < limit:
            needed = {ref.weights for ref in units[sent].seats.values()}
            actor = next((a for a in self._actors if a.ready and a.job is None and needed <= a.confirmed), None)
            if actor is None:
                break
            self._last_job += 1
            self._expect(actor)
            actor.job = self._last_job
            self._jobs[actor.job] = _Job(this, sent, units[sent], time.monotonic())
            self._send(actor, Run(actor.job, units[sent]))
            sent += 1
        return sent

    def _pump(self) -> None:
        """Take what the actors have sent, waiting a moment for it; a silent one past its deadline ends the run."""
        pipes = {a.pipe: a for a in self._actors}
        heard = wait(list(pipes), timeout=min(1.0, self._timeout_s / 4))
        for pipe in heard:
            if isinstance(pipe, Connection):
                self._take(pipes[pipe])
        now = time.monotonic()
        for actor in self._actors:
            if actor.pipe not in heard and actor.owes and now - actor.heard > self._timeout_s:
                self._fail(actor, f"gave no answer within {self._timeout_s:g} s")

    def _take(self, actor: _Actor) -> None:
        try:
            message: ToLearner = decode(actor.pipe.recv_bytes(), ToLearner)  # type: ignore[arg-type]  # union
        except (EOFError, OSError):
            self._fail(actor, _death(actor))
        except (msgspec.MsgspecError, UnicodeDecodeError) as e:
            self._fail(actor, f"sent a broken frame ({e})")
        actor.heard = time.monotonic()
        match message:
            case Ready():
                actor.ready = True
            case Loaded(ref):
                actor.loading.discard(ref)
                if ref in self._sheets:
                    actor.confirmed.add(ref)
                self._remove_retired()
            case Done():
                self._finish(actor, message)
            case Failed(error, traceback):
                self._fail(actor, f"failed: {error}", traceback)

    def _finish(self, actor: _Actor, done: Done) -> None:
        if done.job != actor.job:
            self._fail(actor, f"answered job {done.job}, expected {actor.job}")
        job, actor.job = self._jobs.pop(done.job), None
        if job.run == self._runs:  # else: of a run that its reader gave up
            timings = {**done.timings, "total_s": time.monotonic() - job.sent, "actor": float(actor.index)}
            self._results[job.place] = job.unit, done.groups, timings

    def _remove_retired(self) -> None:
        """A file goes once no actor is about to read it."""
        for ref in [r for r in self._retired if not any(r in a.loading for a in self._actors)]:
            self._store.remove(self._retired.pop(ref))

    def _expect(self, actor: _Actor) -> None:
        """Start the clock of an actor that owed nothing."""
        if not actor.owes:
            actor.heard = time.monotonic()

    def _send(self, actor: _Actor, message: ToActor) -> None:
        if not _say(actor, message):
            while True:  # what it said before its end tells more than the end
                self._take(actor)

    def _check_open(self) -> None:
        if self._closed:
            raise ActorError("the cluster is closed")

    def _fail(self, actor: _Actor, what: str, traceback: str = "") -> NoReturn:
        """End everything and say why, in one line; the worker's traceback is added as a note."""
        unit = self._jobs[actor.job].unit if actor.job is not None else None
        where = f" in unit {unit.index} of step {unit.step} ({unit.kind} {unit.env})" if unit else ""
        last = "" if traceback else _last_lines(actor.log)
        error = ActorError(f"actor {actor.index} {what}{where}" + (f"; its last words: {last}" if last else ""))
        if traceback:
            error.add_note(f"in actor {actor.index}:\n{traceback}")
        self.close()
        raise error


def actor_environment(threads: int, platform: str) -> dict[str, str]:
    """The environment of an actor process: this one's, with its own threads, platform and one device.

    A compilation cache that was set through `jax.config` is passed on.
    """
    env = dict(os.environ)
    env.update(NPROC=str(threads), OMP_NUM_THREADS=str(threads), OPENBLAS_NUM_THREADS=str(threads))
    env["JAX_PLATFORMS"] = platform
    env["PYTHONPATH"] = os.pathsep.join(str(Path(p).absolute()) for p in sys.path)
    env.pop("JAX_NUM_CPU_DEVICES", None)
    flags = [f for f in env.get("XLA_FLAGS", "").split() if "xla_force_host_platform_device_count" not in f]
    env["XLA_FLAGS"] = " ".join(flags)
    if "jax" in sys.modules:
        config = sys.modules["jax"].config
        for name in (
            "jax_compilation_cache_dir",
            "jax_persistent_cache_min_compile_time_secs",
            "jax_persistent_cache_min_entry_size_bytes",
        ):
            if getattr(config, name) is not None:
                env[name.upper()] = str(getattr(config, name))
    return env


def _start(index: int, log: Path, environment: Mapping[str, str], entry: str) -> _Actor:
    """One actor process, alone in its process group, at the other end of a socket."""
    ours, theirs = socket.socketpair()
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        ours.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", _STALL_S, 0))
    with theirs, log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "selfplay.cluster.local_worker", str(theirs.fileno()), entry],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=environment,
            pass_fds=[theirs.fileno()],
            process_group=0,
        )
    return _Actor(index, process, Connection(ours.detach()), log, heard=time.monotonic())


def _say(actor: _Actor, message: ToActor) -> bool:
    try:
        actor.pipe.send_bytes(encode(message))
    except OSError:
        return False
    return True


def _end(actor: _Actor, deadline: float) -> None:
    """Let the actor leave until the deadline, then kill it and whatever it started; no zombie stays."""
    try:
        actor.process.wait(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        pass
    try:
        os.killpg(actor.process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    actor.process.wait()
    actor.pipe.close()


def _death(actor: _Actor) -> str:
    """How an actor whose socket closed has ended."""
    try:
        code = actor.process.wait(timeout=_GRACE_S)
    except subprocess.TimeoutExpired:
        return "closed its socket"
    if code < 0:
        return f"was killed by signal {-code} ({signal.Signals(-code).name})"
    return f"ended with exit code {code}"


def _last_lines(log: Path) -> str:
    """The last lines of an actor's log, on one line."""
    lines = [line.strip() for line in log.read_bytes()[-4000:].decode(errors="replace").splitlines()]
    return " | ".join([line for line in lines if line][-_TAIL:])[-600:]
