"""Several operating-system processes that train as one: joining, messages from process 0 to all, and a watch.

Process 0 leads: it alone decides what comes next, and says so in a message; the others do what they hear, so that all
call the same compiled programs in the same order. A message is announced through jax's coordination service, which has
deadlines and keeps no device busy, and its bytes travel over the devices. A thread in every process says every second
that it lives and listens to the others: whoever dies, fails or is stuck ends all, with one line.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import jax
import msgspec
import numpy as np
from jax._src import distributed  # the coordination service's keys have no public door; Orbax uses this one too
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from selfplay import config
from selfplay.errors import HostError, UserError, report
from selfplay.records import encode

_ROOM = "selfplay"
_BEAT_S = 1.0
_ENDED = "ended"
_LEAST_BYTES = 4096


class Hosts:
    """The processes of a run, seen from one of them; without arguments: one process, alone, and nothing to do here."""

    def __init__(self, plan: config.Hosts | None = None) -> None:
        self.plan = plan or config.Hosts()
        self.several = plan is not None
        self.process = jax.process_index() if plan else 0
        self.processes = jax.process_count() if plan else 1
        self._messages = self._gathered = 0
        self._doing: tuple[str, float] | None = None
        self._left = threading.Event()

    @property
    def leads(self) -> bool:
        """Whether this is process 0."""
        return self.process == 0

    # ------------------------------------------------------------ one instruction

    @contextmanager
    def together(self, message: msgspec.Struct) -> Iterator[None]:
        """What all processes do at once: process 0 says it to the others, and nobody may take longer than allowed.

        Raises:
          HostError: the devices' collectives broke off, most often because another process died.
        """
        if not self.several:
            yield
            return
        name = type(message).__name__
        self._doing = name, time.monotonic()
        try:
            if self.leads:
                self._send(encode(message))
            yield
        except jax.errors.JaxRuntimeError as error:
            first = str(error).splitlines()[0]
            raise HostError(
                f"process {self.process} broke off in {name}: {first} (did another process die?)"
            ) from error
        finally:
            self._doing = None

    def receive(self) -> bytes:
        """The next message of process 0; waits for as long as process 0 lives."""
        self._messages += 1
        size = int(self._wait_for(f"{_ROOM}/message/{self._messages}"))
        return self._broadcast(b"", size)

    def gather(self, mine: bytes) -> list[bytes]:
        """What each process gives, in their order, at process 0; nothing elsewhere. For small things."""
        if not self.several:
            return [mine]
        self._gathered += 1
        keys = [f"{_ROOM}/gather/{self._gathered}/{i}" for i in range(self.processes)]
        if not self.leads:
            _client().key_value_set_bytes(keys[self.process], mine)
            return []
        given = [mine, *(self._wait_for(key) for key in keys[1:])]
        for key in keys[1:]:
            _client().key_value_delete(key)
        return given

    def fetch(self, tree: Any) -> Any:
        """The same tree as NumPy arrays, whole, at process 0; None elsewhere. On devices, one at a time is whole."""

        def one(leaf: jax.Array) -> np.ndarray | None:
            mesh = leaf.sharding.mesh  # type: ignore[attr-defined]  # of a NamedSharding
            whole = jax.device_put(leaf, NamedSharding(mesh, PartitionSpec()))
            return np.asarray(whole.addressable_data(0)) if self.leads else None

        found = jax.tree.map(one, tree)
        return found if self.leads else None

    def _send(self, data: bytes) -> None:
        self._messages += 1
        key = f"{_ROOM}/message/{self._messages}"
        _client().key_value_set_bytes(key, str(len(data)).encode())
        self._broadcast(data, len(data))
        _client().key_value_delete(key)

    def _broadcast(self, data: bytes, size: int) -> bytes:
        """Bytes from process 0 to all, over the devices, in few different lengths: a program is compiled for each."""
        padded = np.zeros(max(_LEAST_BYTES, 1 << (size - 1).bit_length()), np.uint8)
        padded[: len(data)] = np.frombuffer(data, np.uint8)
        return bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded))[:size])

    def _wait_for(self, key: str) -> bytes:
        while True:
            try:
                value: bytes = _client().blocking_key_value_get_bytes(key, 10_000)
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise HostError(f"process {self.process} lost process 0: {str(error).splitlines()[0]}") from error
            else:
                return value

    # ------------------------------------------------------------ the watch

    def __enter__(self) -> Hosts:
        if self.several:
            threading.Thread(target=self._watch, name="watch on the other processes", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Leave: in good order, or, with an error, at once and with the others, who could only wait for us."""
        self._left.set()
        if not self.several:
            return
        if error is None:
            self._say("left")
            return
        code = report(error)
        if code is None:
            traceback.print_exception(error)
        self._end(1 if code is None else code, f"{type(error).__name__}: {error}")

    def _watch(self) -> None:
        """Live, and see that the others do; ends the process when they do not."""
        beats, heard = 0, {i: ("", time.monotonic()) for i in range(self.processes)}
        while not self._left.wait(_BEAT_S):
            beats += 1
            try:
                self._say(str(beats))
                found = _client().key_value_dir_get(f"{_ROOM}/alive/")
            except jax.errors.JaxRuntimeError:
                self._stop(1, "process 0 is gone: its coordination service does not answer any more")
                return
            now = time.monotonic()
            for key, text in found:
                process = int(key.rpartition("/")[2])
                if text.startswith(_ENDED) and process != self.process:
                    _, code, line = text.split(" ", 2)
                    self._stop(int(code), f"process {process} ended: {line}")
                if text != heard[process][0]:
                    heard[process] = text, now
            for process, (text, when) in heard.items():
                if text != "left" and now - when > self.plan.silent_s:
                    self._stop(1, f"process {process} was not heard from for {self.plan.silent_s:g} s (hosts.silent_s)")
            doing = self._doing
            if doing and now - doing[1] > self.plan.timeout_s:
                limit = f"{self.plan.timeout_s:g} s (hosts.timeout_s)"
                self._stop(1, f"process {self.process} has been in {doing[0]} for more than {limit}")

    def _stop(self, code: int, line: str) -> None:
        """End this process from the watch, whatever its main thread waits for."""
        if self._left.is_set():
            return  # the main thread is leaving by itself
        print(f"selfplay: error: {line}", file=sys.stderr, flush=True)
        self._end(code, line)

    def _end(self, code: int, line: str) -> None:
        """Tell the others, and go without waiting for them: jax's own way out would."""
        try:
            self._say(f"{_ENDED} {code} {' '.join(line.split())}")
        except jax.errors.JaxRuntimeError:
            pass  # process 0 is gone already
        if self.leads:
            time.sleep(3 * _BEAT_S)  # what is said is kept here: let them hear it
        sys.stdout.flush()
        os._exit(code)

    def _say(self, text: str) -> None:
        _client().key_value_set(f"{_ROOM}/alive/{self.process}", text, allow_overwrite=True)


def join(plan: config.Hosts) -> Hosts:
    """Meet the other processes; before anything else uses jax.

    Raises:
      UserError: the coordinator's address cannot be used, or there is no cluster to ask for what is `auto`.
    """
    if plan.processes == 1:
        return Hosts()
    jax.config.update("jax_enable_preemption_service", False)
    timer = threading.Timer(plan.start_s, _nobody_came, [plan])
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            coordinator_address=None if plan.coordinator == "auto" else plan.coordinator,
            num_processes=None if plan.processes == "auto" else plan.processes,
            process_id=None if plan.process_id == "auto" else plan.process_id,
            initialization_timeout=int(plan.start_s) + 30,  # jax ends the process without a word: we come first
            heartbeat_timeout_seconds=2 * int(plan.silent_s) + 30,
            shutdown_timeout_seconds=int(plan.silent_s) + 30,
        )
        jax.devices()
    except (ValueError, jax.errors.JaxRuntimeError) as error:
        line = str(error).splitlines()[0]
        raise UserError(f"hosts: the processes cannot meet at {plan.coordinator}: {line}") from error
    finally:
        timer.cancel()
    return Hosts(plan)


def _nobody_came(plan: config.Hosts) -> None:
    here = f"process {plan.process_id} of {plan.processes} did not meet the others"
    limit = f"within {plan.start_s:g} s (hosts.start_s)"
    print(f"selfplay: error: {here} at hosts.coordinator = {plan.coordinator} {limit}", file=sys.stderr, flush=True)
    os._exit(UserError.exit_code)


def _client() -> Any:
    return distributed.global_state.client
