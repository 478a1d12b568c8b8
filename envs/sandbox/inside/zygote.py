"""A worker's long-lived process: caged once, then one forked child a run, killed after it.

It never sees a program, a value or a verdict: request and frame are descriptors made for one run, which it hands to the
child and closes. So a child, which is a copy of it, finds nothing there of any other run.
"""

from __future__ import annotations

import gc
import json
import math
import os
import select
import signal
import socket
import sys
import time

from envs.sandbox import wire
from envs.sandbox.inside import cage, child, libc, modules
from envs.sandbox.inside.clock import StoppedClock
from envs.sandbox.inside.seccomp import Filter


def main(tier: str, control_fd: int) -> None:
    """Cage this process as the tier says, tell which walls hold, serve until the trainer hangs up."""
    control = socket.socket(fileno=control_fd)
    modules.preload()
    child.warm_up()
    cage.first_to_go()
    if tier == "A":
        cage.enter_namespaces()
    if tier != "unsafe":
        cage.drop_privileges()
    if tier in ("A", "B"):
        cage.landlock()
    filter = None if tier == "unsafe" else Filter()
    clock = StoppedClock()
    stopped = _can_stop(clock)
    modules.tidy()
    kept = modules.shift_heap()
    os.environ.pop("PYTHONHASHSEED", None)
    gc.collect()
    gc.freeze()
    os.dup2(1, 2)  # until here, standard error was a pipe to the trainer
    control.send(json.dumps({"walls": cage.walls(), "clock": stopped}).encode())
    serve(control, filter, clock if stopped else None, alone=tier == "A")
    del kept


def _can_stop(clock: StoppedClock) -> bool:
    """Try it in a process that is then thrown away: a wrong byte there is a crash."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            clock.stop()
            before = time.time(), time.perf_counter()
            time.sleep(0.002)
            code = int((time.time(), time.perf_counter()) != before)
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1] == 0


def serve(control: socket.socket, filter: Filter | None, clock: StoppedClock | None, *, alone: bool) -> None:
    """One order at a time, until the trainer's end closes.

    Args:
      alone: this is process 1 of its own namespace, so that everyone else in it may be killed.
    """
    while True:
        data, fds, _flags, _address = socket.recv_fds(control, wire.ORDER.size, 2)
        if len(data) != wire.ORDER.size or len(fds) != 2:
            sys.exit(0)
        timeout_s, memory_bytes = wire.ORDER.unpack(data)
        started = time.monotonic()
        pid = libc.fork()
        if pid == 0:
            child.run(fds[0], fds[1], timeout_s, int(memory_bytes), filter, clock)
        for fd in fds:
            os.close(fd)
        late = _wait(pid, started + timeout_s, control)
        status, peak_kib = _end(pid, alone=alone, unsafe=filter is None)
        control.send(wire.REPORT.pack(status, late, time.monotonic() - started, peak_kib * 1024))


def _wait(pid: int, deadline: float, control: socket.socket) -> bool:
    """Until the child ends, the deadline passes, or the trainer is gone; returns whether it is late."""
    pidfd = os.pidfd_open(pid)
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    poller.register(control, select.POLLIN)
    events = poller.poll(max(0, math.ceil((deadline - time.monotonic()) * 1000)))
    os.close(pidfd)
    if any(fd == control.fileno() for fd, _ in events):
        os.kill(pid, signal.SIGKILL)
        sys.exit(0)
    return not events


def _end(pid: int, *, alone: bool, unsafe: bool) -> tuple[int, int]:
    """Kill what may be left of a run; returns the child's wait status and its peak resident size in KiB."""
    if unsafe:
        try:
            os.killpg(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
    os.kill(pid, signal.SIGKILL)  # not reaped yet, so the number is still its own
    _, status, usage = os.wait4(pid, 0)
    if alone:
        _kill_all_others()
    return status, usage.ru_maxrss


def _kill_all_others() -> None:
    """Nothing can fork in a child; if something did all the same, it ends here."""
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        return
    try:
        while True:
            os.wait()
    except ChildProcessError:
        return
