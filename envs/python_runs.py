"""What programs of `python` give, asked of the sandbox, which is opened when first needed and closed at exit."""

from __future__ import annotations

import ast
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from envs.python_kinds import Args
from envs.sandbox import Result, Sandbox
from envs.sandbox.pool import Choice
from envs.sandbox.values import canonical

REMEMBERED = 4096
"""Runs whose results are kept: attempts at a task often give the same answer, and a verdict must not change."""
LOCKS = 256
"""Questions that can be told apart while they are asked: two that share a lock wait for each other."""
T = TypeVar("T")

_EACH = """
def _each(f, inputs):
    found = []
    for given in inputs:
        try:
            found.append([f(*given)])
        except Exception:
            found.append([])
    return found
"""
"""Added to a program that is tried on many inputs in one run. A program may tamper with it: it then claims other
values, as it could by returning them."""

Column = Sequence[str | None]
"""The canonical text of what a function gives for each of some inputs; None where it raises."""


def args_text(args: Args) -> str:
    """Arguments as they stand in a call: `[1, 2], 3`."""
    return ", ".join(map(canonical, args))


class Runs:
    """One sandbox, shared by all threads of the process."""

    def __init__(self, tier: Choice, workers: int, timeout_s: float) -> None:
        self._tier, self._workers, self._timeout_s = tier, workers, timeout_s
        self._lock = threading.Lock()
        self._asking = [threading.Lock() for _ in range(LOCKS)]
        self._sandbox: Sandbox | None = None
        self._owner = 0
        self._remembered = lru_cache(maxsize=REMEMBERED)(self._run)
        self._columns = lru_cache(maxsize=REMEMBERED)(self._column)
        self._agreed = lru_cache(maxsize=REMEMBERED)(self._agree)

    def call(self, program: str, args: str) -> Result:
        """What `f(args)` gives."""
        return self._once(self._remembered, program, f"f({args})")

    def column(self, program: str, inputs: Sequence[str]) -> Column | Result:
        """What f gives for each of some inputs, in one run; the run's result where it gives no such values.

        Args:
          inputs: arguments as `args_text` writes them.
        """
        return self._once(self._columns, program + _EACH, _call(inputs), len(inputs))

    def deterministic(self, program: str, inputs: Sequence[str]) -> bool:
        """Whether fresh workers agree on what f gives for all of some inputs."""
        return self._once(self._agreed, program + _EACH, _call(inputs))

    def _once(self, asked: Callable[..., T], program: str, call: str, *more: int) -> T:
        """An answer that is remembered; threads that want the same at a time wait for one run and are told the same."""
        with self._asking[hash((program, call)) % LOCKS]:
            return asked(program, call, *more)

    def _run(self, program: str, call: str) -> Result:
        return self._open().run(program, call, timeout_s=self._timeout_s)

    def _column(self, program: str, call: str, count: int) -> Column | Result:
        result = self._run(program, call)
        if result.status != "ok":
            return result
        found: Any = ast.literal_eval(result.text)  # canonical text that the sandbox's own code wrote
        if type(found) is not list or len(found) != count or any(type(v) is not list or len(v) > 1 for v in found):
            return Result("error", "not one value for each input")
        return tuple(canonical(value[0]) if value else None for value in found)

    def _agree(self, program: str, call: str) -> bool:
        return self._open().deterministic(program, call, timeout_s=self._timeout_s)

    def _open(self) -> Sandbox:
        with self._lock:
            if self._sandbox is None or self._owner != os.getpid():  # a fork has no workers of its own yet
                self._sandbox, self._owner = Sandbox(self._workers, tier=self._tier), os.getpid()
                weakref.finalize(self, _close, self._sandbox, self._owner)
            return self._sandbox


def _call(inputs: Sequence[str]) -> str:
    return f"_each(f, [{', '.join(f'({args},)' for args in inputs)}])"


def _close(sandbox: Sandbox, owner: int) -> None:
    """At exit, or when the environment is gone; in the process that opened it, not in a fork of that."""
    if os.getpid() == owner:
        sandbox.close()
