"""The language of `dsl`: its operators, its trees, and which of them have a type.

A program is an expression over one input: the list `x`, or the integer `n`. There are three kinds of values: integers,
lists of integers, and truth values. `map`, `filter` and `fold` take a small function, which is an expression over
`v` (the number at hand) and, in `fold`, `a` (what has come together so far); integers and truth values only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple, cast

Kind = Literal["int", "bool", "list"]
Slot = Literal["int", "bool", "list", "same", "number", "test", "fold"]
"""What an argument must be. `same` = integer or list, the same in all such slots and in the result; `number` and `test`
= a small function of v that gives an integer or a truth value; `fold` = one of a and v that gives an integer."""

Value = int | bool | tuple[int, ...]

LITERAL = "literal"
INPUTS: dict[str, Kind] = {"x": "list", "n": "int"}
"""The two inputs; a program uses exactly one of them."""
FUNCTIONS: dict[str, tuple[Kind, Mapping[str, Kind]]] = {
    "number": ("int", {"v": "int"}),
    "test": ("bool", {"v": "int"}),
    "fold": ("int", {"a": "int", "v": "int"}),
}
"""What a small function gives, and what it may use, by slot."""


class Operator(NamedTuple):
    """How an operator is written, and what it takes and gives."""

    letter: str
    """In compact form."""
    slots: tuple[Slot, ...]
    result: Literal["int", "bool", "list", "same"]
    meaning: str
    """For a reader; the arguments are called as in `usage`."""
    symbol: str = ""
    """Between or before its arguments in readable form; none = it is called by its word."""

    @property
    def scalar(self) -> bool:
        """Whether a small function may use it: no list and no function in it."""
        return set(self.slots) <= {"int", "bool", "same"} and self.result != "list"


_II: tuple[Slot, ...] = ("int", "int")

OPERATORS: dict[str, Operator] = {
    "add": Operator("+", _II, "int", "sum of two numbers", "+"),
    "subtract": Operator("-", _II, "int", "difference", "-"),
    "multiply": Operator("*", _II, "int", "product", "*"),
    "divide": Operator("/", _II, "int", "quotient, rounded down; by 0 it is 0", "//"),
    "modulo": Operator("%", _II, "int", "remainder of that division; by 0 it is 0", "%"),
    "larger": Operator("^", _II, "int", "the larger of two numbers"),
    "smaller": Operator("_", _II, "int", "the smaller of two numbers"),
    "distance": Operator("D", _II, "int", "the larger minus the smaller of two numbers"),
    "less": Operator("<", _II, "bool", "whether the left number is less", "<"),
    "greater": Operator(">", _II, "bool", "whether the left number is greater", ">"),
    "equal": Operator("e", _II, "bool", "whether two numbers are equal", "=="),
    "even": Operator("E", ("int",), "bool", "whether a number is even"),
    "not": Operator("!", ("bool",), "bool", "the opposite", "not"),
    "and": Operator("&", ("bool", "bool"), "bool", "whether both hold", "and"),
    "or": Operator("|", ("bool", "bool"), "bool", "whether at least one holds", "or"),
    "if": Operator("?", ("bool", "same", "same"), "same", "the second where the first holds, else the third"),
    "first": Operator("f", ("list",), "int", "the first number; 0 of an empty list"),
    "last": Operator("l", ("list",), "int", "the last number; 0 of an empty list"),
    "largest": Operator("g", ("list",), "int", "the largest number; 0 of an empty list"),
    "smallest": Operator("m", ("list",), "int", "the smallest number; 0 of an empty list"),
    "sum": Operator("S", ("list",), "int", "the sum of the numbers"),
    "length": Operator("L", ("list",), "int", "how many numbers there are"),
    "at": Operator("i", ("list", "int"), "int", "the number at a place, counted from 0; 0 where there is none"),
    "count": Operator("k", ("list", "int"), "int", "how often a number occurs"),
    "reverse": Operator("r", ("list",), "list", "the list backwards"),
    "sort": Operator("s", ("list",), "list", "the list in ascending order"),
    "unique": Operator("u", ("list",), "list", "the list without repetitions: the first of equal numbers stays"),
    "take": Operator("t", ("list", "int"), "list", "that many numbers from the start"),
    "drop": Operator("d", ("list", "int"), "list", "the list without that many numbers from the start"),
    "prepend": Operator("p", ("list", "int"), "list", "the list with a number put before it"),
    "concat": Operator("c", ("list", "list"), "list", "the first list, then the second"),
    "range": Operator("o", ("int",), "list", "the numbers from 0 up to, and without, the number"),
    "map": Operator("M", ("list", "number"), "list", "the function's value for every number v"),
    "filter": Operator("F", ("list", "test"), "list", "the numbers v for which the function holds"),
    "fold": Operator("R", ("list", "int", "fold"), "int", "from the number on, a becomes the function for every v"),
}  # fmt: skip

OPERATOR_SETS: dict[str, tuple[str, ...]] = {"core": ("reverse", "sort", "unique", "take", "drop", "prepend")}
"""Names for several operators. core: those that make a list of a list, which a very small model can apply one after
another; programs of them are chains without branches."""


class Node(NamedTuple):
    """An operator with its arguments, a variable, or a literal."""

    op: str
    """A key of OPERATORS, the name of a variable, or LITERAL."""
    args: tuple[Node, ...] = ()
    value: Value = 0
    """Of a literal. Programs hold integers only; what is left of one while it runs may hold any value."""


class Program(NamedTuple):
    """An expression that has a type."""

    tree: Node
    variable: str
    """The input that it uses, a key of INPUTS."""
    gives: Kind
    size: int
    """Operators, those of small functions included."""

    @property
    def takes(self) -> Kind:
        return INPUTS[self.variable]


Example = tuple[Value, Value]
"""An input and the program's output."""


class Problem(NamedTuple):
    """What a task is about."""

    mode: str
    program: Program
    given: Value
    """The input of deduce and abduce; in abduce one of those that are right."""
    output: Value
    shown: tuple[Example, ...]
    """The examples that induce shows."""
    held_back: tuple[Example, ...]
    """Those that its answer must fit as well."""
    modulus: int


def literal(value: Value) -> Node:
    """A constant."""
    return Node(LITERAL, (), value)


def nodes(tree: Node) -> Iterator[Node]:
    """All parts of a tree, small functions included, arguments before their operator."""
    for arg in tree.args:
        yield from nodes(arg)
    yield tree


HIGHER = frozenset(word for word, operator in OPERATORS.items() if operator.slots[-1] in FUNCTIONS)
"""Operators with a small function, which is their last argument."""


def arguments(node: Node) -> tuple[Node, ...]:
    """The arguments of an operator that are values, not functions."""
    return node.args[:-1] if node.op in HIGHER else node.args


def outer(tree: Node) -> Iterator[Node]:
    """All parts outside small functions, arguments before their operator."""
    for arg in arguments(tree):
        yield from outer(arg)
    yield tree


def size(tree: Node) -> int:
    """The number of operators, those of small functions included."""
    return sum(node.op in OPERATORS for node in nodes(tree))


def depth(tree: Node) -> int:
    """Operators on the longest way from the result to a leaf."""
    return (tree.op in OPERATORS) + max(map(depth, tree.args), default=0)


def kind_of(node: Node, scope: Mapping[str, Kind], *, scalar: bool = False) -> Kind | None:
    """The kind of value that an expression gives; None if it has no type.

    Args:
      scope: the kinds of the variables that may stand in it.
      scalar: as in a small function: neither lists nor functions.
    """
    if node.op == LITERAL:
        return value_kind(node.value)
    if node.op not in OPERATORS:
        return scope.get(node.op)
    operator = OPERATORS[node.op]
    if len(node.args) != len(operator.slots) or (scalar and not operator.scalar):
        return None
    same: set[Kind | None] = set()
    for arg, slot in zip(node.args, operator.slots, strict=True):
        if slot in FUNCTIONS:
            wanted, inner = FUNCTIONS[slot]
            fits = kind_of(arg, inner, scalar=True) == wanted
        else:
            kind = kind_of(arg, scope, scalar=scalar)
            fits = kind in ("int", "list") if slot == "same" else kind == slot
            same |= {kind} if slot == "same" else set()
        if not fits or len(same) > 1:
            return None
    return same.pop() if operator.result == "same" else operator.result


def typed_kind(node: Node) -> Kind:
    """The kind of an expression that is known to be well typed, at less cost."""
    while node.op == "if":
        node = node.args[1]
    if node.op in OPERATORS:
        return cast("Kind", OPERATORS[node.op].result)
    return value_kind(node.value) if node.op == LITERAL else INPUTS.get(node.op, "int")


def value_kind(value: Value) -> Kind:
    """The kind of a value."""
    if isinstance(value, bool):
        return "bool"
    return "int" if isinstance(value, int) else "list"


def program(tree: Node) -> Program | None:
    """The program of a tree; None unless it is well typed, gives an integer or a list, and uses exactly one input."""
    used = {node.op for node in nodes(tree)} & set(INPUTS)
    if len(used) != 1 or any(node.op == LITERAL and type(node.value) is not int for node in nodes(tree)):
        return None
    variable = used.pop()
    gives = kind_of(tree, {variable: INPUTS[variable]})
    return None if gives is None or gives == "bool" else Program(tree, variable, gives, size(tree))
