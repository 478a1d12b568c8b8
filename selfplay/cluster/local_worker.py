"""The actor process: `python -m selfplay.cluster.local_worker FD ENTRY`, started by `local.py` and by nothing else.

It imports its worker's module at once, and builds the worker when it is told from what.
A thread reads the socket all the time, so the learner never waits to send, and the actor ends at once when the
learner is gone, even in the middle of a unit. An exception in the worker is told to the learner, then ends the actor.
"""

from __future__ import annotations

import importlib
import os
import queue
import signal
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, NoReturn

import msgspec

from selfplay.cluster import weights
from selfplay.cluster.base import Worker, build_worker
from selfplay.cluster.messages import Done, Drop, Failed, Load, Loaded, Ready, Run, Start, Stop, ToActor
from selfplay.records import decode, encode

Inbox = queue.SimpleQueue[ToActor]


def main(argv: list[str]) -> None:
    """Serve until told to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the learner's to answer
    fd = int(argv[1])
    os.set_inheritable(fd, False)
    pipe = Connection(fd)
    inbox: Inbox = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(pipe, inbox), daemon=True).start()
    sys.excepthook = _tell(pipe)
    _serve(pipe, inbox, argv[2])


def _serve(pipe: Connection, inbox: Inbox, entry: str) -> None:
    worker = _build(pipe, inbox, entry)
    while not isinstance(message := inbox.get(), Stop):
        match message:
            case Load(ref, sheet):
                start = time.perf_counter()
                worker.load(ref, weights.read(sheet))
                pipe.send_bytes(encode(Loaded(ref, time.perf_counter() - start)))
            case Drop(ref):
                worker.drop(ref)
            case Run(job, unit):
                start = time.perf_counter()
                groups, timings = worker.run(unit)
                run_s = time.perf_counter() - start
                pipe.send_bytes(encode(Done(job, groups, {**timings, "run_s": run_s})))
            case Start():
                raise ValueError("a second Start message")


def _build(pipe: Connection, inbox: Inbox, entry: str) -> Worker:
    start = time.perf_counter()
    importlib.import_module(entry.partition(":")[0])
    message = inbox.get()
    if isinstance(message, Stop):
        raise SystemExit(0)
    if not isinstance(message, Start):
        raise ValueError(f"the first message must be Start, got {type(message).__name__}")
    worker = build_worker(entry, message.spec)
    pipe.send_bytes(encode(Ready(time.perf_counter() - start)))
    return worker


def _receive(pipe: Connection, inbox: Inbox) -> None:
    while True:
        try:
            message: ToActor = decode(pipe.recv_bytes(), ToActor)  # type: ignore[arg-type]  # union
        except (EOFError, OSError):
            _leave()
        except msgspec.MsgspecError as e:
            print(f"a broken frame came from the learner: {e}", file=sys.stderr, flush=True)
            _leave()
        inbox.put(message)
        if isinstance(message, Stop):
            return


def _leave() -> NoReturn:
    """The learner is gone, or talks nonsense: end now, with whatever the worker started."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def _tell(pipe: Connection) -> Any:
    """An excepthook that reports to the learner first."""

    def hook(kind: type[BaseException], error: BaseException, tb: TracebackType | None) -> None:
        sys.__excepthook__(kind, error, tb)
        line = " ".join(f"{kind.__name__}: {error}".split())
        try:
            pipe.send_bytes(encode(Failed(line, "".join(traceback.format_exception(kind, error, tb)))))
        except OSError:
            sys.stderr.write("the learner could not be told\n")

    return hook


if __name__ == "__main__":
    main(sys.argv)
