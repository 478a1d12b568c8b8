"""Random programs of `python`: chains of steps, computed by our own functions and written as Python text."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from envs.python_kinds import KINDS, Args
from envs.python_source import operations
from envs.python_steps import STEPS, Step

OUTS = "abghjpqruyz"
"""Names of variables that steps set; no parameter and no loop has one of them."""
TWO_PARAMETERS = 0.4
"""Share of the programs with two."""
INLINE = 0.5
"""Share of the values used once that are written where they are used."""
MAX_NUMBER, MAX_LENGTH = 10**6, 60
"""Bounds of every value on the way; a program that exceeds them is not posed."""


class Fault(Exception):
    """A value exceeds a bound."""


class Placed(NamedTuple):
    """One step of a program."""

    step: Step
    takes: tuple[str, ...]
    """Variables."""
    chained: int
    """Which of them is the value of the step before (of the first step: a parameter)."""
    constant: int
    out: str
    inline: bool


class Chain(NamedTuple):
    """A program: each step uses the value of the one before; the last one's is the result."""

    kinds: tuple[str, ...]
    parameters: tuple[str, ...]
    steps: tuple[Placed, ...]

    @property
    def gives(self) -> str:
        return self.steps[-1].step.gives


@lru_cache(maxsize=1)
def costed() -> tuple[tuple[Step, int], ...]:
    """Every step, with its operations."""
    return tuple((step, operations(step.text.format("a", "b", k=2, out="g"))) for step in STEPS)


@lru_cache(maxsize=8)
def signatures(kinds: tuple[str, ...]) -> tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]:
    """Kinds and names of parameters that programs may have: one, or two."""
    one = [((kind,), (KINDS[kind].names[0],)) for kind in kinds]
    two = [((a, b), (KINDS[a].names[0], KINDS[b].names[int(a == b)])) for a in kinds for b in kinds]
    return (*one, *two)


def chain(rng: random.Random, kinds: tuple[str, ...], size: int) -> Chain | None:
    """A random program of exactly so many operations, or None where the draw ends in a dead end.

    Args:
      kinds: of its parameters.
    """
    all_signatures = signatures(kinds)
    single = rng.random() >= TWO_PARAMETERS
    taken, parameters = rng.choice(all_signatures[: len(kinds)] if single else all_signatures[len(kinds) :])
    scope = dict(zip(parameters, taken, strict=True))
    last, left = rng.choice(parameters), size
    steps: list[Placed] = []
    while left > 0 and len(steps) < len(OUTS):
        found = _next(rng, scope, last, left, OUTS[len(steps)])
        if found is None:
            return None
        placed, cost = found
        steps.append(placed)
        left -= cost
        last = placed.out
        scope[last] = placed.step.gives
    used = {name for placed in steps for name in placed.takes}
    return Chain(taken, parameters, tuple(steps)) if not left and used >= set(parameters) else None


def _next(rng: random.Random, scope: dict[str, str], last: str, left: int, out: str) -> tuple[Placed, int] | None:
    """A random step that takes the last value, and its operations, which are no more than are left."""
    known = set(scope.values())
    fitting = [
        (step, cost)
        for step, cost in costed()
        if cost <= left and scope[last] in step.takes and known.issuperset(step.takes)
    ]
    if not fitting:
        return None
    step, cost = rng.choice(fitting)
    chained = rng.choice([place for place, kind in enumerate(step.takes) if kind == scope[last]])
    takes = tuple(
        last if place == chained else rng.choice([name for name, found in scope.items() if found == kind])
        for place, kind in enumerate(step.takes)
    )
    return Placed(step, takes, chained, rng.randint(*step.constants), out, rng.random() < INLINE), cost


def values(known: Chain, args: Args, *, without: int = -1) -> list[Any]:
    """The value of every step.

    Args:
      without: a step that passes on the value before it.

    Raises:
      Fault: one exceeds a bound.
    """
    scope = dict(zip(known.parameters, args, strict=True))
    found = []
    for place, placed in enumerate(known.steps):
        taken = [scope[name] for name in placed.takes]
        if place == without:
            value = taken[placed.chained]
        else:
            value = placed.step.compute(*taken, *((placed.constant,) if placed.step.has_constant else ()))
            _check(value)
        scope[placed.out] = value
        found.append(value)
    return found


def _check(value: Any) -> None:
    if type(value) is int:
        if abs(value) > MAX_NUMBER:
            raise Fault
        return
    if len(value) > MAX_LENGTH:
        raise Fault
    if type(value) is not str:
        for part in value.values() if type(value) is dict else value:
            _check(part)


def every_step_counts(known: Chain, inputs: Sequence[Args]) -> bool:
    """Whether no step could be left out, and none gives the same for all inputs or only what it was given.

    Raises:
      Fault: a value exceeds a bound.
    """
    rows = [values(known, args) for args in inputs]
    for place, placed in enumerate(known.steps):
        column = [row[place] for row in rows]
        if all(value == column[0] for value in column):
            return False
        if placed.step.takes[placed.chained] != placed.step.gives:
            continue
        if all(values(known, args, without=place)[-1] == row[-1] for args, row in zip(inputs, rows, strict=True)):
            return False
    return True


def write(known: Chain) -> str:
    """The program's text, as `def f(xs: list[int]) -> int:` and its lines; not yet canonical."""
    head = ", ".join(f"{name}: {kind}" for name, kind in zip(known.parameters, known.kinds, strict=True))
    lines = [f"def f({head}) -> {known.gives}:"]
    names = {name: name for name in known.parameters}
    for place, placed in enumerate(known.steps):
        text = placed.step.text.format(*(names[name] for name in placed.takes), k=placed.constant, out=placed.out)
        last = place == len(known.steps) - 1
        names[placed.out] = placed.out
        if placed.step.block:
            lines += text.split("\n") + ([f"return {placed.out}"] if last else [])
        elif last:
            lines.append(f"return {text}")
        elif placed.inline and _uses(known, placed.out) == 1:
            names[placed.out] = f"({text})"
        else:
            lines.append(f"{placed.out} = {text}")
    return "\n    ".join(lines)


def _uses(known: Chain, name: str) -> int:
    """How often a variable stands in the text."""
    return sum(
        placed.step.text.count(f"{{{place}}}")
        for placed in known.steps
        for place, taken in enumerate(placed.takes)
        if taken == name
    )
