"""Reading a program that a model wrote, without running it: its canonical text, its size, what it may not use.

Nothing here is a wall; the sandbox is. The rules keep tasks worth posing: no clock, no files, no chance.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

MAX_TEXT = 4000
"""Characters of a program or an answer that are read; a longer one is none."""
MAX_PARAMETERS = 3
REMEMBERED = 2048
"""Programs that are kept once read: attempts at a task often give the same one."""
IMPORTS = tuple(
    "bisect collections fractions functools heapq itertools math operator re statistics string textwrap typing".split()
)
"""What programs may import unless options say otherwise: modules of pure functions."""
FORBIDDEN = frozenset(
    "breakpoint compile delattr eval exec exit getattr globals help input locals open quit setattr vars".split()
)
"""Names of no use to a pure function."""
WORK = (
    ast.Assert, ast.AugAssign, ast.BinOp, ast.BoolOp, ast.Call, ast.Compare, ast.For, ast.If, ast.IfExp, ast.JoinedStr,
    ast.Raise, ast.Subscript, ast.While, ast.comprehension,
)  # fmt: skip
"""Parts of a program that count as an operation."""


class Source(NamedTuple):
    """A program that reads: one function f, with whatever it leans on."""

    text: str
    """Canonical: no comments, no docstrings, the spaces and quotes of `ast.unparse`."""
    kinds: tuple[str, ...] | None
    """The annotation of each parameter, as text; None where one is missing."""
    operations: int
    outside: str
    """What it uses and should not; empty if nothing."""
    words: tuple[str, ...]
    """Its operations by name, in alphabetical order."""


@lru_cache(maxsize=REMEMBERED)
def read(text: str, imports: tuple[str, ...] = IMPORTS) -> Source | None:
    """The program in a text of nothing else; None if it does not parse, or is not about one function f.

    Args:
      imports: modules that it may import.
    """
    if len(text) > MAX_TEXT:
        return None
    try:
        tree = ast.parse(text)
        parameters = _parameters(tree)
        if parameters is None:
            return None
        kinds = [ast.unparse(p.annotation) if p.annotation else None for p in parameters]
        _without_docstrings(tree)
        canonical = ast.unparse(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    annotated = [kind for kind in kinds if kind is not None]
    working = list(_working(tree))
    return Source(
        canonical,
        tuple(annotated) if len(annotated) == len(kinds) else None,
        len(working),
        _outside(tree, imports),
        tuple(sorted(map(_word, working))),
    )


def operations(text: str) -> int:
    """How many operations the statements of a piece of code hold."""
    return sum(isinstance(node, WORK) for node in ast.walk(ast.parse(text)))


def _parameters(tree: ast.Module) -> list[ast.arg] | None:
    """Of the one function f: one to three, named plainly, without defaults. None if there is no such function."""
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "f"]
    if len(found) != 1 or found[0].decorator_list:
        return None
    given = found[0].args
    if given.vararg or given.kwarg or given.kwonlyargs or given.posonlyargs or given.defaults:
        return None
    returns = any(isinstance(node, ast.Return) and node.value for node in ast.walk(found[0]))
    return given.args if returns and 1 <= len(given.args) <= MAX_PARAMETERS else None


def _without_docstrings(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)) and len(node.body) > 1:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                del node.body[0]


def _working(tree: ast.Module) -> Iterator[ast.AST]:
    """The operations of a program; annotations are none."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, WORK):
            yield node
        if isinstance(node, ast.FunctionDef):
            waiting += [*node.body, *node.decorator_list, *node.args.defaults]
        elif isinstance(node, ast.AnnAssign):
            waiting += [node.target, *([node.value] if node.value else [])]
        else:
            waiting += ast.iter_child_nodes(node)


def _word(node: ast.AST) -> str:
    if isinstance(node, ast.Call):
        called = node.func
        return called.id if isinstance(called, ast.Name) else getattr(called, "attr", "call")
    if isinstance(node, (ast.BinOp, ast.AugAssign)):
        return type(node.op).__name__
    if isinstance(node, ast.Compare):
        return type(node.ops[0]).__name__
    return type(node).__name__


def _outside(tree: ast.Module, imports: Sequence[str]) -> str:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or "." * node.level]
        else:
            name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
            if name in FORBIDDEN or name.startswith("__"):
                return name
            if isinstance(node, (ast.Global, ast.AsyncFunctionDef, ast.Await, ast.Yield, ast.YieldFrom)):
                return type(node).__name__.lower()
            continue
        for module in modules:
            if module.partition(".")[0] not in imports:
                return f"import {module}"
    return ""
