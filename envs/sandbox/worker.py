"""The trainer's end of one worker: start it, ask it, give it up. Nothing here reads what a program says."""

from __future__ import annotations

import fcntl
import os
import random
import select
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import msgspec

from envs.base import EnvError
from envs.sandbox import wire

Tier = Literal["A", "B", "C", "unsafe"]
TIERS: tuple[Tier, ...] = get_args(Tier)

WALLS: dict[Tier, frozenset[str]] = {
    "A": frozenset({"namespaces", "landlock", "privileges"}),
    "B": frozenset({"landlock", "privileges"}),
    "C": frozenset({"privileges"}),
    "unsafe": frozenset(),
}
"""What a worker must find to hold when it tries, by tier; the system call filter is tried by the canaries."""

_FROZEN = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
"""A request is memory of the trainer's: a child reads it and does nothing else to it."""
START_S = 20.0
GRACE_S = 0.75
"""How long after a run's deadline its zygote may take to kill the child, half a gigabyte to free included, and
say so, before it is killed itself."""

_BOOT = """
import sys, types
root, tier, fd = sys.argv[1:]
for name in ("envs", "envs.sandbox"):
    package = types.ModuleType(name)
    package.__path__ = [root + "/" + name.replace(".", "/")]
    sys.modules[name] = package
from envs.sandbox.inside.zygote import main
main(tier, int(fd))
"""
"""Runs the zygote without `envs/__init__.py` and without site-packages: the standard library is all that it loads."""


class CannotStart(EnvError):
    """A worker did not come up with the walls of its tier."""


class _Hello(msgspec.Struct):
    walls: list[str]
    clock: bool


@dataclass(frozen=True)
class Ended:
    """How one run ended, as the kernel and the zygote tell it, and the bytes that its child left."""

    wait_status: int
    late: bool
    wall_s: float
    peak_bytes: int
    frame: bytes
    """At most MAX_FRAME + 2 bytes are kept: more than an honest child writes."""


class Worker:
    """One zygote. Not thread-safe: the pool hands it to one thread at a time."""

    def __init__(self, tier: Tier) -> None:
        """Start it and wait until it says that its walls hold.

        Raises:
          CannotStart: the kernel refuses a wall, or one does not hold.
        """
        self.tier = tier
        self.runs = 0
        self.stopped_clock = False
        self.hash_seed = random.SystemRandom().randrange(1, 2**32)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        root = str(Path(__file__).parent.parent.parent)
        # -P -s -S -B and not -I: isolated mode would ignore PYTHONHASHSEED.
        argv = [sys.executable, "-P", "-s", "-S", "-B", "-c", _BOOT, root, tier, str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(
                argv,
                env={"PYTHONHASHSEED": str(self.hash_seed)},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # a Ctrl-C at the terminal is the trainer's
            )
        try:
            self._greet()
        except BaseException:
            self.kill()
            raise

    def _greet(self) -> None:
        self._control.settimeout(START_S)
        try:
            data = self._control.recv(4096)
        except TimeoutError:
            data = b""
        if not data:
            raise CannotStart(self._last_words())
        hello = msgspec.json.decode(data, type=_Hello)
        missing = WALLS[self.tier] - set(hello.walls)
        if missing:
            raise CannotStart(f"these walls do not hold: {', '.join(sorted(missing))}")
        self.stopped_clock = hello.clock
        assert self._process.stderr is not None
        self._process.stderr.close()

    def _last_words(self) -> str:
        """The last line that a worker wrote before it gave up."""
        self._process.kill()
        _, stderr = self._process.communicate()
        lines = stderr.decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it ended without a word")

    def run(self, request: bytes, *, timeout_s: float, memory_bytes: int) -> Ended | None:
        """Have one child answer a request; None = the worker is lost and must be replaced."""
        self.runs += 1
        memory = os.memfd_create("request", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(writing, True)
        try:
            with open(memory, "wb", buffering=0, closefd=False) as file:
                file.write(request)
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _FROZEN)
            os.lseek(memory, 0, os.SEEK_SET)
            order = wire.ORDER.pack(timeout_s, memory_bytes)
            socket.send_fds(self._control, [order], [memory, writing])
            os.close(writing)
            writing = -1
            return self._collect(reading, time.monotonic() + timeout_s + GRACE_S)
        except (BrokenPipeError, ConnectionResetError):
            return None
        finally:
            for fd in (memory, reading, writing):
                if fd >= 0:
                    os.close(fd)

    def _collect(self, reading: int, deadline: float) -> Ended | None:
        """The child's bytes and the zygote's report, whichever comes first; the child is dead when that is here."""
        frame = bytearray()
        poller = select.poll()
        poller.register(reading, select.POLLIN)
        poller.register(self._control, select.POLLIN)
        while (left_s := deadline - time.monotonic()) > 0:
            for fd, _ in poller.poll(left_s * 1000):
                if fd == reading:
                    if not _take(reading, frame):
                        poller.unregister(reading)
                    continue
                report = self._control.recv(4096)
                if len(report) != wire.REPORT.size:
                    return None
                while _take(reading, frame):
                    pass
                status, late, wall_s, peak_bytes = wire.REPORT.unpack(report)
                return Ended(status, late, wall_s, peak_bytes, bytes(frame))
        return None

    def kill(self) -> None:
        """End it and all that is in it: process 1 of its namespaces dies with the process that was started."""
        self._control.close()
        self._process.kill()
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()


def _take(reading: int, frame: bytearray) -> bool:
    """Move what there is from the pipe to the frame; False once nothing more is to come, or too much came."""
    try:
        piece = os.read(reading, wire.MAX_FRAME + 2 - len(frame))
    except BlockingIOError:
        return False
    frame += piece
    return bool(piece)
