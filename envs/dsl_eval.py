"""What programs of `dsl` compute, within limits of steps, sizes and values. Nothing is ever compiled or run by Python.

An expression is evaluated on many inputs at once, a column of values a part. Every operator is total, so a program
fails only at a limit; FAULT then stands in its column in place of a value. With a modulus m all integers are
0 .. m - 1; without one (modulus 0) they are whole numbers up to LIMIT in size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from envs.dsl_lang import FUNCTIONS, HIGHER, LITERAL, OPERATORS, Node, Program, Value, arguments, literal, outer, size

LIMIT = 9999
"""Largest integer, and smallest without its sign."""
MAX_LIST = 20
"""Longest list."""
STEPS = 200
"""Most operators that are applied, those of a small function once for every number of its list."""

FAULT = None
Column = list[Any]
"""One Value an input, or FAULT."""

Numbers = tuple[int, ...]


def _at(numbers: Numbers, place: int) -> int:
    return numbers[place] if 0 <= place < len(numbers) else 0


COMPUTE: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a // b if b else 0,
    "modulo": lambda a, b: a % b if b else 0,
    "larger": lambda a, b: a if a > b else b,
    "smaller": lambda a, b: a if a < b else b,
    "distance": lambda a, b: abs(a - b),
    "less": lambda a, b: a < b,
    "greater": lambda a, b: a > b,
    "equal": lambda a, b: a == b,
    "even": lambda a: a % 2 == 0,
    "not": lambda a: not a,
    "and": lambda a, b: a and b,
    "or": lambda a, b: a or b,
    "if": lambda test, one, other: one if test else other,
    "first": lambda s: s[0] if s else 0,
    "last": lambda s: s[-1] if s else 0,
    "largest": lambda s: max(s, default=0),
    "smallest": lambda s: min(s, default=0),
    "sum": sum,
    "length": len,
    "at": _at,
    "count": lambda s, v: s.count(v),
    "reverse": lambda s: s[::-1],
    "sort": lambda s: tuple(sorted(s)),
    "unique": lambda s: tuple(dict.fromkeys(s)),
    "take": lambda s, k: s[: max(k, 0)],
    "drop": lambda s, k: s[max(k, 0) :],
    "prepend": lambda s, v: (v, *s),
    "concat": lambda s, t: s + t,
    "range": lambda k: tuple(range(min(k, MAX_LIST + 1))),
}
"""What every operator without a small function computes, before numbers wrap around at the modulus."""

GROWS = {"prepend", "concat", "range"}
"""Operators whose list may be too long."""


class Evaluation:
    """Columns of expressions over one variable on some inputs; every part is computed once."""

    def __init__(self, variable: str, inputs: Sequence[Value], modulus: int) -> None:
        self.modulus = modulus
        self._inputs: dict[str, Column] = {variable: list(inputs)}
        self._count = len(inputs)
        self._known: dict[int, tuple[Node, Column]] = {}  # by identity, which holds as long as the part is kept here

    def column(self, node: Node) -> Column:
        """The values of an expression, whatever the number of steps."""
        found = self._known.get(id(node))
        if found is None:
            found = self._known[id(node)] = node, self._column(node, self._inputs, self._count)
        return found[1]

    def steps(self, tree: Node) -> list[int]:
        """Operators that an expression applies, by input."""
        parts = [node for node in outer(tree) if node.op in OPERATORS]
        total = [len(parts)] * self._count
        for node in parts:
            if node.op in HIGHER:
                cost, lists = size(node.args[-1]), self.column(node.args[0])
                total = [sofar + cost * len(s or ()) for sofar, s in zip(total, lists, strict=True)]
        return total

    def result(self, tree: Node) -> Column:
        """The values of a whole program: none where it takes too many steps."""
        values = self.column(tree)
        steps = self.steps(tree)
        if max(steps, default=0) <= STEPS:
            return values
        return [FAULT if taken > STEPS else value for taken, value in zip(steps, values, strict=True)]

    def _column(self, node: Node, variables: Mapping[str, Column], count: int) -> Column:
        if node.op == LITERAL:
            return [node.value] * count
        if node.op in variables:
            return variables[node.op]
        if variables is self._inputs:
            args = [self.column(arg) for arg in arguments(node)]
        else:
            args = [self._column(arg, variables, count) for arg in node.args]
        if node.op in HIGHER:
            return COMPUTE_HIGHER[node.op](self, node.args[-1], *args)
        compute = COMPUTE[node.op]
        if any(FAULT in arg for arg in args):
            out = [FAULT if FAULT in row else compute(*row) for row in zip(*args, strict=True)]
        else:
            out = list(map(compute, *args))
        return self._within(node.op, out)

    def _within(self, op: str, out: Column) -> Column:
        """Numbers wrapped around at the modulus, and what is too large or too long replaced by FAULT."""
        if op in GROWS:
            return [FAULT if s is FAULT or len(s) > MAX_LIST else s for s in out]
        if OPERATORS[op].result != "int":
            return out
        m = self.modulus
        if m:
            return [FAULT if v is FAULT else v % m for v in out]
        return [v if v is not FAULT and -LIMIT <= v <= LIMIT else FAULT for v in out]

    def _flat(self, function: Node, lists: Column) -> Column:
        """A small function's value for every number of every list, one after the other."""
        flat = [v for s in lists if s is not FAULT for v in s]
        return self._column(function, {"v": flat}, len(flat))

    def _map(self, function: Node, lists: Column) -> Column:
        values = iter(self._flat(function, lists))
        out = [s if s is FAULT else tuple([next(values) for _ in s]) for s in lists]
        return [FAULT if s is FAULT or FAULT in s else s for s in out]

    def _filter(self, function: Node, lists: Column) -> Column:
        values = iter(self._flat(function, lists))
        out: Column = []
        for s in lists:
            kept = s if s is FAULT else [(v, next(values)) for v in s]
            faulty = kept is None or any(holds is FAULT for _, holds in kept)
            out.append(FAULT if faulty else tuple([v for v, holds in kept or () if holds]))
        return out

    def _fold(self, function: Node, lists: Column, start: Column) -> Column:
        so_far = [FAULT if s is FAULT else a for s, a in zip(lists, start, strict=True)]
        for place in range(max((len(s) for s in lists if s is not FAULT), default=0)):
            here = [i for i, a in enumerate(so_far) if a is not FAULT and place < len(lists[i])]
            variables = {"a": [so_far[i] for i in here], "v": [lists[i][place] for i in here]}
            for i, value in zip(here, self._column(function, variables, len(here)), strict=True):
                so_far[i] = value
        return so_far


COMPUTE_HIGHER: dict[str, Callable[..., Column]] = {
    "map": Evaluation._map,
    "filter": Evaluation._filter,
    "fold": Evaluation._fold,
}
"""Operators with a small function."""


def run_all(program: Program, inputs: Sequence[Value], modulus: int) -> Column:
    """What a program makes of some inputs; FAULT where it exceeds a limit."""
    return Evaluation(program.variable, inputs, modulus).result(program.tree)


def run(program: Program, given: Value, modulus: int) -> Value | None:
    """What a program makes of one input; FAULT if it exceeds a limit."""
    value: Value | None = run_all(program, [given], modulus)[0]
    return value


def within_limits(value: Value, modulus: int) -> bool:
    """Whether a value could be the input of a program: numbers within bounds, a list not too long."""
    numbers = value if isinstance(value, tuple) else (value,)
    low, high = (0, modulus - 1) if modulus else (-LIMIT, LIMIT)
    return len(numbers) <= MAX_LIST and all(low <= v <= high for v in numbers)


def reductions(program: Program, given: Value, modulus: int) -> list[Node]:
    """What is left of a program after each operator, innermost left operator first; the last is the value alone.

    The input stays a variable until an operator takes it. Only for an input on which the program gives a value.
    """
    variables = {program.variable: literal(given)}
    states = []
    tree = program.tree
    while tree.op in OPERATORS:
        tree = _reduced(tree, variables, modulus)
        states.append(tree)
    return states or [variables.get(tree.op, tree)]


def _reduced(node: Node, variables: Mapping[str, Node], modulus: int) -> Node:
    for place, (arg, slot) in enumerate(zip(node.args, OPERATORS[node.op].slots, strict=True)):
        if slot not in FUNCTIONS and arg.op in OPERATORS:
            return node._replace(args=(*node.args[:place], _reduced(arg, variables, modulus), *node.args[place + 1 :]))
    slots = OPERATORS[node.op].slots
    args = tuple(a if s in FUNCTIONS else variables.get(a.op, a) for a, s in zip(node.args, slots, strict=True))
    return literal(Evaluation("x", [()], modulus).column(Node(node.op, args))[0])
