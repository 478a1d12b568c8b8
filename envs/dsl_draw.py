"""Random well-typed programs of `dsl` with exactly so many operators."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple, cast

from envs.dsl_eval import FAULT, Evaluation
from envs.dsl_lang import FUNCTIONS, INPUTS, LITERAL, OPERATORS, Kind, Node, Slot, literal
from envs.dsl_rules import left_out, says_nothing

MAX_FUNCTION = 2
"""Most operators of a small function that is drawn."""
LITERAL_SHARE = 0.7
"""How often an integer argument that may be a constant is one."""

TRIES = 8
"""Draws of one operator with its arguments before the one above is drawn again."""
LEVELS = 2
"""How deep below each new operator those are looked for that it makes superfluous."""
RESULTS: tuple[Kind, ...] = ("int", "list")

Plan = tuple[tuple[Slot, int], ...]
"""What goes into each slot: how many operators, or CONSTANT."""
CONSTANT = -1


class Draw(NamedTuple):
    """What programs are drawn from; every table below is a function of it, and computed once.

    Every part of a program other than a constant depends on the input (every function on v), so that few of its
    operators are constants in disguise.
    """

    variable: str
    operators: tuple[str, ...]
    literals: tuple[int, int]

    def program(self, rng: random.Random, count: int, found: Evaluation) -> Node | None:
        """A program with so many operators; None if there is none, or luck ran out.

        Args:
          found: of the probes; an operator that says nothing there is drawn again at once.
        """
        kinds: list[Kind] = [kind for kind in RESULTS if _words(self, kind, count, False)]
        return self._node(rng, rng.choice(kinds), count, found) if kinds else None

    def _node(self, rng: random.Random, kind: Kind, count: int, found: Evaluation) -> Node | None:
        if count == 0:
            return Node(self.variable)
        for _ in range(TRIES):
            node = self._one(rng, kind, count, found)
            if node is None or FAULT in found.column(node):
                continue
            if not says_nothing(node, found) and not left_out(node, found, LEVELS):
                return node
        return None

    def varied(self, rng: random.Random, tree: Node) -> Node:
        """The program with one constant drawn again, or one operator replaced by another that takes and gives the same.

        It is cheap to evaluate, since most of its parts are old ones.
        """
        places = [(path, alike) for path, node in _paths(tree, ()) if (alike := self._alike(node))]
        if not places:
            return tree
        path, alike = rng.choice(places)
        return _replaced(tree, path, rng.choice(alike) if alike[0] else "", rng.randint(*self.literals))

    def _alike(self, node: Node) -> tuple[str, ...]:
        """What an operator can be replaced by; one empty word for a constant, nothing for a variable."""
        if node.op == LITERAL:
            return ("",)
        return _siblings(self, node.op) if node.op in OPERATORS else ()

    def _one(self, rng: random.Random, kind: Kind, count: int, found: Evaluation | None) -> Node | None:
        """An operator with its arguments; without an evaluation, in a small function."""
        if count == 0:
            return Node("v")
        word = rng.choice(_words(self, kind, count, found is None))
        plans = _plans(self, word, kind, count - 1, found is None)
        args = []
        for slot, number in rng.choice(plans[rng.random() < LITERAL_SHARE] or plans[0] or plans[1]):
            arg = self._part(rng, slot, number, found)
            if arg is None:
                return None
            args.append(arg)
        return Node(word, tuple(args))

    def _part(self, rng: random.Random, slot: Slot, count: int, found: Evaluation | None) -> Node | None:
        if count == CONSTANT:
            return literal(rng.randint(*self.literals))
        if slot == "fold":
            return self._folder(rng, count)
        if slot in FUNCTIONS:
            return self._one(rng, FUNCTIONS[slot][0], count, None)
        kind = cast("Kind", slot)
        return self._one(rng, kind, count, None) if found is None else self._node(rng, kind, count, found)

    def _folder(self, rng: random.Random, count: int) -> Node | None:
        """`a`, one operator, and an expression of v; either first."""
        other = self._one(rng, "int", count - 1, None)
        args = [Node("a"), other] if rng.random() < 0.5 else [other, Node("a")]
        return Node(rng.choice(_folders(self)), tuple(arg for arg in args if arg is not None))


def _paths(node: Node, path: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], Node]]:
    """Every part of a tree with its way from the top."""
    yield path, node
    for place, arg in enumerate(node.args):
        yield from _paths(arg, (*path, place))


def _replaced(node: Node, path: tuple[int, ...], word: str, number: int) -> Node:
    """The tree with another operator at a place, or, without a word, another constant."""
    if not path:
        return node._replace(op=word) if word else literal(number)
    place, *rest = path
    inner = _replaced(node.args[place], tuple(rest), word, number)
    return node._replace(args=(*node.args[:place], inner, *node.args[place + 1 :]))


@lru_cache(maxsize=1 << 10)
def _siblings(draw: Draw, word: str) -> tuple[str, ...]:
    """Other operators that take and give the same."""
    own = OPERATORS[word]
    alike = (w for w in draw.operators if (OPERATORS[w].slots, OPERATORS[w].result) == (own.slots, own.result))
    return tuple(w for w in alike if w != word)


@lru_cache(maxsize=1 << 12)
def _words(draw: Draw, kind: Kind, count: int, scalar: bool) -> tuple[str, ...]:
    """Operators that can stand at the top of an expression with so many operators."""
    return tuple(word for word in draw.operators if count and any(_plans(draw, word, kind, count - 1, scalar)))


def _can(draw: Draw, kind: Kind, count: int, scalar: bool) -> bool:
    """Whether there is an expression of the kind, with so many operators, that depends on its variable."""
    if count == 0:
        return kind == ("int" if scalar else INPUTS[draw.variable])
    return bool(_words(draw, kind, count, scalar))


@lru_cache(maxsize=1 << 14)
def _plans(draw: Draw, word: str, kind: Kind, count: int, scalar: bool) -> tuple[tuple[Plan, ...], tuple[Plan, ...]]:
    """The ways to spread so many operators over the arguments of one that gives a kind: without and with a constant."""
    operator = OPERATORS[word]
    if (scalar and not operator.scalar) or operator.result not in (kind, "same") or (word == "if" and kind == "bool"):
        return (), ()
    slots = [kind if slot == "same" else slot for slot in operator.slots]
    plans = _spread(draw, slots, count, scalar)
    alive = [plan for plan in plans if any(n != CONSTANT and slot not in FUNCTIONS for slot, n in plan)]
    constant = [any(n == CONSTANT for _, n in plan) for plan in alive]
    return (
        tuple(plan for plan, has in zip(alive, constant, strict=True) if not has),
        tuple(plan for plan, has in zip(alive, constant, strict=True) if has),
    )


def _spread(draw: Draw, slots: Sequence[Slot], count: int, scalar: bool) -> Iterator[Plan]:
    if not slots:
        if count == 0:
            yield ()
        return
    for n in _counts(draw, slots[0], count, scalar):
        for rest in _spread(draw, slots[1:], count - max(n, 0), scalar):
            yield ((slots[0], n), *rest)


def _counts(draw: Draw, slot: Slot, most: int, scalar: bool) -> list[int]:
    """How many operators, up to so many, may go into a slot."""
    if slot == "fold":
        return [n for n in range(1, min(most, MAX_FUNCTION) + 1) if _folders(draw) and _can(draw, "int", n - 1, True)]
    if slot in FUNCTIONS:
        return [n for n in range(1, min(most, MAX_FUNCTION) + 1) if _can(draw, FUNCTIONS[slot][0], n, True)]
    constant = [CONSTANT] if slot == "int" else []
    return constant + [n for n in range(most + 1) if _can(draw, cast("Kind", slot), n, scalar)]


def sizes(draw: Draw, most: int) -> tuple[int, ...]:
    """The numbers of operators, up to a most, with which there are programs at all."""
    return tuple(n for n in range(1, most + 1) if any(_words(draw, kind, n, False) for kind in RESULTS))


@lru_cache(maxsize=64)
def _folders(draw: Draw) -> tuple[str, ...]:
    """Operators of two numbers that give a number."""
    return tuple(w for w in draw.operators if OPERATORS[w].slots == ("int", "int") and OPERATORS[w].result == "int")
