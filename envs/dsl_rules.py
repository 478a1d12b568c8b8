"""Which programs of `dsl` are the same function, which operators do nothing, and which tasks a constant would solve.

What a function is, is judged by its values on fixed inputs, the probes: two programs that compute the same have the
same values there, so aliases always share a family. (Programs that differ only elsewhere share it too: families are at
most too coarse, never too fine.)
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache

from envs.base import digest, stable_seed
from envs.dsl_eval import Column, Evaluation, run
from envs.dsl_lang import (
    HIGHER,
    INPUTS,
    OPERATORS,
    Kind,
    Node,
    Problem,
    Program,
    Value,
    arguments,
    outer,
    size,
    typed_kind,
    value_kind,
)

MAX_LEVELS = 1000
"""As deep as any program."""
PROBE_LENGTHS = (0, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 6)
PROBE_VALUES = (-6, 14)
PROBE_INTEGERS = range(-5, 13)
"""Without a modulus; with one, numbers below it."""


@lru_cache(maxsize=8)
def probes(kind: Kind, modulus: int) -> tuple[Value, ...]:
    """The inputs on which functions are compared; half of the lists repeat a number."""
    if kind == "int":
        return tuple(range(modulus)) if modulus else tuple(PROBE_INTEGERS)
    low, high = (0, modulus - 1) if modulus else PROBE_VALUES
    rng = random.Random(stable_seed("dsl probes", modulus))
    lists = [[rng.randint(low, high) for _ in range(length)] for length in PROBE_LENGTHS]
    for numbers in lists[1::2]:
        numbers[-1] = numbers[0]
    return tuple(map(tuple, lists))


def on_probes(variable: str, modulus: int) -> Evaluation:
    """What evaluates programs over a variable on its probes."""
    return Evaluation(variable, probes(INPUTS[variable], modulus), modulus)


def family_text(program: Program, found: Evaluation) -> str:
    """Canonical text of the function that a program computes; the same in every mode and for every input.

    Args:
      found: of the probes.
    """
    modulus = f" mod {found.modulus}" if found.modulus else ""
    return f"{program.takes} -> {program.gives}{modulus} {digest(repr(found.result(program.tree)))}"


def idle(program: Program, found: Evaluation) -> str:
    """The word of an operator that adds nothing; empty if every one counts.

    That is an operator whose value is a constant, or that of one of its own parts, on all probes, or one that could be
    left out without a difference to the result. Without this rule a proposer makes tasks look harder by
    `reverse(reverse(x))`, `length(sort(x))` or `v + 0`.

    Args:
      found: of the probes.
    """
    for node in outer(program.tree):
        if node.op in OPERATORS and says_nothing(node, found):
            return node.op
    return left_out(program.tree, found)


def says_nothing(node: Node, found: Evaluation) -> bool:
    """Whether an operator's value is a constant, or that of one of its own parts, on all probes."""
    column = found.column(node)
    if all(value == column[0] for value in column):
        return True
    kind = typed_kind(node)
    parts = (part for arg in arguments(node) for part in outer(arg))
    return any(found.column(part) == column and typed_kind(part) == kind for part in parts)


def left_out(node: Node, found: Evaluation, levels: int = MAX_LEVELS) -> str:
    """The word of an operator, so many levels down at most, that makes no difference on any probe; empty if all do."""
    whole = found.column(node)
    return next((op for op, shorter in _shortened(node, levels) if found.column(shorter) == whole), "")


def counting(program: Program, found: Evaluation) -> int:
    """How many operators are left, at least 1, once those are left out that make no difference on any probe.

    Args:
      found: of the probes.
    """
    tree, whole = program.tree, found.column(program.tree)
    while simpler := next((t for _, t in _shortened(tree, MAX_LEVELS, deep=True) if found.column(t) == whole), None):
        tree = simpler
    return max(1, size(tree))


def _shortened(node: Node, levels: int, *, deep: bool = False) -> Iterator[tuple[str, Node]]:
    """The tree with one operator replaced by an argument of its kind, or any part (deep), and that operator's word."""
    if node.op not in OPERATORS or levels == 0:
        return
    kind = typed_kind(node)
    for place, arg in enumerate(node.args):
        if place < len(node.args) - 1 or node.op not in HIGHER:
            yield from ((node.op, part) for part in (outer(arg) if deep else (arg,)) if typed_kind(part) == kind)
        for op, shorter in _shortened(arg, levels - 1, deep=deep):
            yield op, node._replace(args=(*node.args[:place], shorter, *node.args[place + 1 :]))


def idle_on(program: Program, given: Value, modulus: int) -> str:
    """The word of a list operator that leaves its list as it was on this very input; empty if none does.

    Operators that choose (`if`) are exempt.
    """
    found = Evaluation(program.variable, [given], modulus)
    for node in outer(program.tree):
        if node.op in OPERATORS and OPERATORS[node.op].result == "list":
            after = found.column(node)
            if any(found.column(arg) == after for arg in arguments(node)):
                return node.op
    return ""


def common_share(outputs: Column) -> float:
    """Share of the outputs that are the most common one: what the best constant answer scores."""
    return max(Counter(outputs).values()) / len(outputs)


def guessed(problem: Problem) -> str:
    """What would solve the task without looking at its numbers; empty if nothing so simple does.

    The empty list, or 0, is an input that abduce looks for; or all examples that induce shows have one output, or
    their own inputs as outputs.
    """
    mode, known, _, output, shown, _, modulus = problem
    if mode == "abduce":
        nothing: Value = () if known.takes == "list" else 0
        return (
            f"{nothing or 0 if known.takes == 'int' else '[]'} fits" if run(known, nothing, modulus) == output else ""
        )
    if mode == "induce" and len({after for _, after in shown}) == 1:
        return "one output fits all examples"
    return "the input fits all examples" if mode == "induce" and all(a == b for a, b in shown) else ""


def copied(problem: Problem) -> bool:
    """Whether the answer can be copied from the prompt.

    In deduce the output is the input, or the one number that all its places hold. In abduce the output itself is an
    input that fits, or a list of it alone.
    """
    mode, known, given, output, _, _, modulus = problem
    if mode == "deduce":
        return output == given or (isinstance(given, tuple) and set(given) == {output})
    if mode == "abduce":
        again: Value = (output,) if known.takes == "list" and not isinstance(output, tuple) else output
        return value_kind(again) == known.takes and run(known, again, modulus) == output
    return False


def draw_inputs(kind: Kind, values: tuple[int, int], lengths: tuple[int, int], count: int, seed: int) -> list[Value]:
    """Distinct random inputs, as many as asked for or as there are; all integers where they are no more than that."""
    low, high = values
    rng = random.Random(seed)
    if kind == "int":
        size = high - low + 1
        return [low + k for k in rng.sample(range(size), min(size, count))]
    found: dict[Value, None] = {}
    for _ in range(4 * count):
        found[tuple(rng.choices(range(low, high + 1), k=rng.randint(*lengths)))] = None
        if len(found) == count:
            break
    return list(found)
