"""The surface forms of `python`: fenced code and tags for chat models, bare text for base models that see examples."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any, Protocol

from envs.answers import tagged
from envs.python_kinds import Args
from envs.python_rules import Problem
from envs.python_source import MAX_TEXT
from envs.sandbox import canonical_literal
from envs.sandbox.values import NotPlain

FENCE = "```"
_HEADS = (" ", "\t", "def ", "import ", "from ", "@", "#", ")", "]", "}")
"""How lines of a function and of what it leans on begin."""


class Limits(Protocol):
    """What a proposal may hold."""

    inputs: tuple[str, ...]
    imports: tuple[str, ...]
    propose_operations: tuple[int, int]


def read_literal(text: str) -> str | None:
    """The canonical text of a Python literal, or None."""
    if len(text) > MAX_TEXT:
        return None
    try:
        return canonical_literal(text)
    except NotPlain:
        return None


def value_of(text: str) -> Any:
    """The value of a canonical text."""
    return ast.literal_eval(text)


def read_args(text: str) -> Args | None:
    """The arguments in `[1, 2], 3` or `f([1, 2], 3)`, or None."""
    said = text.strip()
    if said.startswith("f(") and said.endswith(")"):
        said = said[2:-1]
    found = read_literal(f"({said.strip().rstrip(',')},)")
    return None if found is None else value_of(found)


def find_code(text: str) -> str:
    """The code in an answer: the last fenced block, else what begins like code, to the first line that does not."""
    end = text.rfind(FENCE)
    if end >= 0:
        start = text.rfind(FENCE, 0, end)
        block = text[end + 3 :] if start < 0 else text[start + 3 : end]  # a fence may be left open
        first, line_end, rest = block.partition("\n")
        return rest if line_end and first.strip().lower() in ("python", "py", "python3", "") else block
    lines = text.strip().split("\n")
    begin = next((i for i, line in enumerate(lines) if line.startswith(("def ", "import ", "from "))), len(lines))
    found = []
    for line in lines[begin:]:
        if line.strip() and not line.startswith(_HEADS):
            break
        found.append(line)
    return "\n".join(found)


def calls(problem: Problem) -> str:
    """The examples that induce shows, one a line."""
    return "\n".join(f"f({args}) == {output}" for args, output in problem.shown)


class Form(Protocol):
    """How tasks, answers and proposals are written."""

    def solve_prompt(self, problem: Problem, imports: Sequence[str]) -> str:
        """What the solver is shown."""

    def answer(self, problem: Problem) -> str:
        """A right answer."""

    def find(self, mode: str, text: str) -> str:
        """The part of a text that holds a value, arguments or code."""

    def offer(self, mode: str, program: str, args: str) -> str:
        """How a proposer writes a task; induce has no input."""

    def read_offer(self, mode: str, text: str) -> tuple[str, Args | None] | None:
        """The inverse of `offer`, or None; the program is not read yet."""

    def ask(self, mode: str, offers: Sequence[str], limits: Limits) -> str:
        """What the proposer is shown."""


class Words:
    """Questions in English with fenced code, answered in an <answer> tag or, in induce, a fenced block."""

    def solve_prompt(self, problem: Problem, imports: Sequence[str]) -> str:
        if problem.mode == "induce":
            return (
                f"Write a Python function f for which all of this holds:\n{fenced(calls(problem))}\n"
                f"It is tried on other inputs too. It may import {', '.join(imports) or 'nothing'}.\n"
                "End with the function, in a block of ```python."
            )
        if problem.mode == "deduce":
            head = f"What does f({problem.args}) return?"
            end = "End with the value, as a Python literal: <answer>VALUE</answer>."
        else:
            head = f"Find arguments for which f returns {problem.output}. Any that do are right."
            end = "End with the arguments, as Python literals with commas between them: <answer>ARGUMENTS</answer>."
        return f"{head}\n{fenced(problem.program)}\n{end}"

    def answer(self, problem: Problem) -> str:
        if problem.mode == "induce":
            return fenced(problem.program)
        return f"<answer>{problem.output if problem.mode == 'deduce' else problem.args}</answer>"

    def find(self, mode: str, text: str) -> str:
        inside = tagged(text)
        if mode == "induce":
            return find_code(text if inside is None else inside)
        if inside is None:
            inside = text.strip()
            inside = inside[inside.rfind("\n") + 1 :]
        return inside.strip(" `\t\r\n")

    def offer(self, mode: str, program: str, args: str) -> str:
        return fenced(program) + ("" if mode == "induce" else f"\n<answer>{args}</answer>")

    def read_offer(self, mode: str, text: str) -> tuple[str, Args | None] | None:
        inside = tagged(text)
        if mode == "induce":
            return (find_code(text), None) if inside is None else None
        args = None if inside is None else read_args(inside.strip(" `\t\r\n"))
        code = find_code(text[: text.rfind("<answer>")])
        return None if args is None else (code, args)

    def ask(self, mode: str, offers: Sequence[str], limits: Limits) -> str:
        few, many = limits.propose_operations
        example = "def f(xs: list[int], n: int) -> int:\n    return sum((x * n for x in xs))"
        with_input = mode != "induce"
        shown = "These exist already:\n\n" + "\n\n".join(offers) + "\n\n" if offers else ""
        return (
            f"Write a new Python function f {WANTED[mode]}. "
            f"It has one to three parameters, annotated as {' or '.join(limits.inputs)}, and returns plain data. "
            f"It always gives the same for the same input, reads and prints nothing, has {few} to {many} operations, "
            f"and may import {', '.join(limits.imports) or 'nothing'}.\n"
            + ("Choose its input too: one that takes some thought.\n" if with_input else "")
            + f"{shown}Write only the new one, in this shape:\n{self.offer(mode, example, '[3, 8, 5], 2')}"
        )


class Brief(Words):
    """`def f(...): ...` and `f([1, 2]) ==`, answered by the value alone: for base models that are shown examples.

    A value is read from an <answer> tag, else from the first line that is not empty, after its last `==` if it repeats
    the call. In a prompt formed for this, a blank line is a good stop text: no program of `task` holds one.
    """

    def solve_prompt(self, problem: Problem, imports: Sequence[str]) -> str:
        if problem.mode == "induce":
            return calls(problem)
        call = f"f({problem.args}) ==" if problem.mode == "deduce" else f"f(?) == {problem.output}"
        return f"{problem.program}\n{call}"

    def answer(self, problem: Problem) -> str:
        return {"deduce": problem.output, "abduce": problem.args, "induce": problem.program}[problem.mode]

    def find(self, mode: str, text: str) -> str:
        if mode == "induce" or tagged(text) is not None:
            return super().find(mode, text)
        line = text.strip().split("\n")[0]
        if line.startswith("f(") and " == " in line:
            call, _, value = line.rpartition(" == ")
            line = call if mode == "abduce" else value
        return line.strip(" `\t\r")

    def offer(self, mode: str, program: str, args: str) -> str:
        return program if mode == "induce" else f"{program}\nf({args})"

    def read_offer(self, mode: str, text: str) -> tuple[str, Args | None] | None:
        said = text.strip().strip("`").strip()
        if mode == "induce":
            return said, None
        code, _, call = said.rpartition("\n")
        args = read_args(call) if call.startswith("f(") else None
        return None if args is None else (code, args)

    def ask(self, mode: str, offers: Sequence[str], limits: Limits) -> str:
        return f"new function to {mode}" + (", other than:\n" + "\n".join(offers) if offers else "")


WANTED = {
    "deduce": "whose output for an input is to be worked out",
    "abduce": "whose input is to be found from its output",
    "induce": "that is to be found from examples of inputs and outputs",
}
"""What a proposer is asked for, by mode."""


def fenced(code: str) -> str:
    return f"{FENCE}python\n{code}\n{FENCE}"


FORMS: dict[str, Form] = {"words": Words(), "brief": Brief()}
