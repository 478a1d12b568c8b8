"""A problem of `dsl` as the plain data of a task's payload, and back."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

from envs.base import EnvError, Task
from envs.dsl_lang import Problem, Program, Value, program
from envs.dsl_syntax import read_infix, write_infix


def payload_of(problem: Problem) -> dict[str, Any]:
    """What the verifier needs; `problem_of` is the way back."""
    return {
        "program": write_infix(problem.program.tree),
        "modulus": problem.modulus,
        "input": plain(problem.given),
        "output": plain(problem.output),
        "shown": plain(problem.shown),
        "held_back": plain(problem.held_back),
    }


def problem_of(task: Task) -> Problem:
    """The problem that a task states."""
    payload = task.payload
    shown, held_back = (
        tuple((value_of(one), value_of(other)) for one, other in payload[name]) for name in ("shown", "held_back")
    )
    given, output = value_of(payload["input"]), value_of(payload["output"])
    return Problem(task.mode, program_of(payload["program"]), given, output, shown, held_back, payload["modulus"])


@lru_cache(maxsize=1 << 14)
def program_of(text: str) -> Program:
    """The program of a task's payload."""
    tree = read_infix(text)
    found = program(tree) if tree else None
    if found is None:
        raise EnvError(f"dsl: no program: {text[:80]!r}")
    return found


def plain(value: Any) -> Any:
    """Lists in place of tuples, as payloads have them."""
    return [plain(part) for part in value] if isinstance(value, (tuple, list)) else value


def value_of(plain: Any) -> Value:
    """The inverse of `plain` for one value."""
    return tuple(plain) if isinstance(plain, list) else cast("int", plain)
