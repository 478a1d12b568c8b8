"""The operators of `chain`, what they compute, and when two programs are the same function.

A state is a tuple of n whole numbers below the modulus m. A program is a text of one letter an operator.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from envs.base import stable_seed

State = tuple[int, ...]

ORDER: dict[str, Callable[[State], State]] = {
    "r": lambda s: s[::-1],
    "s": lambda s: tuple(sorted(s)),
    "l": lambda s: s[1:] + s[:1],
    "x": lambda s: s if len(s) < 2 else s[-1:] + s[1:-1] + s[:1],
}
"""Operators that move numbers about: reverse, sort ascending, rotate left by one, swap first and last."""

VALUE: dict[str, Callable[[int, int], int]] = {
    "i": lambda v, m: (v + 1) % m,
    "d": lambda v, m: 2 * v % m,
    "c": lambda v, m: m - 1 - v,
}
"""Operators on every number v by itself, modulo m: increment, double, complement."""

PICK: dict[str, Callable[[State], int]] = {"f": lambda s: s[0], "e": lambda s: s[-1]}
"""Operators that take the number at a place, first or end; they too can only come last."""

LAST: dict[str, Callable[[State], int]] = {"g": max, "m": min, "t": sum, **PICK}
"""Operators that turn the list into one number and can only come last: greatest, minimum, total (without modulus)."""

OPERATORS = "rslxidc"
"""All operators that map a state to a state."""

GUESS_STATES = 200
"""Random states on which the best constant answer is scored."""


def step(state: State, operator: str, modulus: int) -> State:
    """The state after one operator; the number that an operator of `LAST` gives is a state of length 1."""
    if operator in ORDER:
        return ORDER[operator](state)
    if operator in VALUE:
        f = VALUE[operator]
        return tuple(f(v, modulus) for v in state)
    return (LAST[operator](state),)


def run(state: State, program: str, modulus: int) -> list[State]:
    """The state after each operator of the program."""
    states = []
    for operator in program:
        state = step(state, operator, modulus)
        states.append(state)
    return states


def idle(state: State, program: str, modulus: int) -> int | None:
    """The place of the first operator that leaves the state as it was; None if every operator changes it.

    Without this rule a proposer makes tasks look harder by operators that do nothing (`ssss`).
    """
    for place, operator in enumerate(program):
        after = step(state, operator, modulus)
        if after == state:
            return place
        state = after
    return None


class NormalForm(NamedTuple):
    """A program as `a1 v + b1`, then perhaps a sort, then `a2 v + b2`, then a permutation, then perhaps one of `LAST`.

    Every program has this form, because
    - the value operators are affine maps modulo m, so they compose to one, and commute with moving numbers about;
    - whatever order the numbers have before a sort makes no difference, so only the last sort counts;
    - reverse, rotate and swap compose to one permutation: out[k] = in[order[k]];
    - of `LAST`, first and end see one place: they are `first` after the permutation that brings it to the front; the
      others do not see the order.
    So identities cancel (rr, cc, xx, m times i) and commuting operators have one form.
    """

    a1: int
    b1: int
    sorts: bool
    a2: int
    b2: int
    order: tuple[int, ...]
    last: str

    def apply(self, state: State, modulus: int) -> State:
        """What the program makes of a state."""
        out = [(self.a1 * v + self.b1) % modulus for v in state]
        if self.sorts:
            out.sort()
            out = [(self.a2 * v + self.b2) % modulus for v in out]
        moved = tuple([out[k] for k in self.order])
        return (LAST[self.last](moved),) if self.last else moved


def normal_form(program: str, length: int, modulus: int) -> NormalForm:
    """The normal form of a program on states of some length; equal forms are equal functions."""
    same = list(range(length))
    a1, b1, sorts, a, b, order, last = 1, 0, False, 1, 0, same, ""
    for operator in program:
        if operator == "i":
            b += 1
        elif operator == "d":
            a, b = 2 * a, 2 * b
        elif operator == "c":
            a, b = -a, modulus - 1 - b
        elif operator == "r":
            order = order[::-1]
        elif operator == "l":
            order = order[1:] + order[:1]
        elif operator == "x":
            order = order if length < 2 else order[-1:] + order[1:-1] + order[:1]
        elif operator == "s":
            a1, b1, sorts, a, b, order = a * a1, a * b1 + b, True, 1, 0, same
        elif operator in PICK:
            place = order[0] if operator == "f" else order[-1]
            order, last = [place, *(k for k in same if k != place)], "f"
        else:
            a1, b1, sorts, a, b, order, last = a * a1, a * b1 + b, False, 1, 0, same, operator
    if not sorts:
        a1, b1, a, b = a * a1, a * b1 + b, 1, 0
    return NormalForm(a1 % modulus, b1 % modulus, sorts, a % modulus, b % modulus, tuple(order), last)


def content_text(state: Sequence[int], program: str, modulus: int) -> str:
    """Canonical text of a task; the modulus is part of it only where the program can feel it."""
    wraps = f"|mod {modulus}" if any(operator in VALUE for operator in program) else ""
    return f"{' '.join(map(str, state))}|{program}{wraps}"


def family_text(state: Sequence[int], form: NormalForm, modulus: int) -> str:
    """Canonical text of the initial state and the function that the program computes."""
    parts = [" ".join(map(str, state))]
    if (form.a1, form.b1) != (1, 0):
        parts.append(f"{form.a1}v+{form.b1} mod {modulus}")
    if form.sorts:
        parts.append("sort")
    if (form.a2, form.b2) != (1, 0):
        parts.append(f"{form.a2}v+{form.b2} mod {modulus}")
    if form.order != tuple(range(len(form.order))):
        parts.append("order " + " ".join(map(str, form.order)))
    if form.last:
        parts.append(form.last)
    return "|".join(parts)


def guess_share(form: NormalForm, modulus: int, values: tuple[int, int] | None = None) -> float:
    """Share of random initial states on which the most common answer is right: what the best constant guess scores.

    Adding a constant at the end and moving numbers about rename the answers without merging any,
    so they are left out: the share is the same, and is found in the cache more often.

    Args:
      values: smallest and largest number of the states; None = all below the modulus.
    """
    b1 = form.b1 if form.sorts or form.last else 0
    order = form.order if form.last in PICK else tuple(range(len(form.order)))
    return _guess_share(form._replace(b1=b1, b2=0, order=order), modulus, values or (0, modulus - 1))


@lru_cache(maxsize=1 << 16)
def _guess_share(form: NormalForm, modulus: int, values: tuple[int, int]) -> float:
    answers = Counter(form.apply(state, modulus) for state in _guess_states(len(form.order), modulus, values))
    return max(answers.values()) / GUESS_STATES


@lru_cache(maxsize=64)
def _guess_states(length: int, modulus: int, values: tuple[int, int]) -> tuple[State, ...]:
    rng = random.Random(stable_seed("chain guess", length, modulus))
    low, high = values
    return tuple(tuple(rng.randrange(low, high + 1) for _ in range(length)) for _ in range(GUESS_STATES))
