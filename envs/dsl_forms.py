"""The surface forms of `dsl`: postfix letters for tiny models, expressions for pretrained ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from envs.answers import last_match, tagged
from envs.dsl_eval import Evaluation, reductions
from envs.dsl_lang import FUNCTIONS, INPUTS, OPERATORS, Node, Problem, Program, Slot, Value, nodes, program
from envs.dsl_syntax import (
    compact_value,
    infix_value,
    read_compact,
    read_compact_value,
    read_infix,
    read_infix_value,
    write_compact,
    write_infix,
)


class Limits(Protocol):
    """What a proposal may hold."""

    modulus: int
    operators: tuple[str, ...]
    inputs: tuple[str, ...]
    values: tuple[int, int]
    lengths: tuple[int, int]
    propose_operators: tuple[int, int]


class Form(Protocol):
    """How tasks, answers and proposals are written."""

    moduli: tuple[int, ...]
    """What integers may wrap around at, 0 = they do not; the default first."""
    max_answer: int
    """Characters of the longest worked answer, with one more for its end, unless options say otherwise."""

    def solve_prompt(self, problem: Problem, operators: Sequence[str]) -> str:
        """What the solver is shown."""

    def worked(self, problem: Problem) -> str:
        """The full answer with every step, where steps help."""

    def read_value(self, text: str) -> Value | None:
        """The answer to deduce or abduce found in a text, or None."""

    def read_program(self, text: str) -> Program | None:
        """The answer to induce found in a text, or None."""

    def offer(self, program: Program, given: Value) -> str:
        """How a proposer writes a task, whatever its mode."""

    def read_offer(self, text: str) -> tuple[Program, Value] | None:
        """The inverse of `offer`, or None; not checked against any bound."""

    def ask(self, mode: str, offers: Sequence[str], limits: Limits) -> str:
        """What the proposer is shown."""

    def propose_tokens(self, operators: int, numbers: int) -> int:
        """Characters of the longest proposal, with one more for its end."""


class Compact:
    """`xr3t@(3142)=`, answered `(2413)3t=(241)`: each step applies the first operator to the values before it.

    Abduce is `xr3t=(241)@`, answered by the same steps backwards and then the input; induce is
    `(3142):(241);(97):(79)?`, answered `xr(2413)3t(241)=xr3t`: each operator with what it gives on the first example,
    then the program. Only what follows the last `=` is judged.
    """

    moduli: tuple[int, ...] = (10,)
    max_answer = 128

    def solve_prompt(self, problem: Problem, operators: Sequence[str]) -> str:
        text = write_compact(problem.program.tree)
        if problem.mode == "deduce":
            return f"{text}@{compact_value(problem.given)}="
        if problem.mode == "abduce":
            return f"{text}={compact_value(problem.output)}@"
        return ";".join(f"{compact_value(a)}:{compact_value(b)}" for a, b in problem.shown) + "?"

    def worked(self, problem: Problem) -> str:
        if problem.mode == "induce":
            found = Evaluation(problem.program.variable, [problem.given], problem.modulus)
            return f"{_followed(problem.program.tree, found)}={write_compact(problem.program.tree)}"
        states = [write_compact(node) for node in reductions(problem.program, problem.given, problem.modulus)]
        if problem.mode == "deduce":
            return "=".join(states)
        return "=".join([*states[-2::-1], compact_value(problem.given)])

    def read_value(self, text: str) -> Value | None:
        return read_compact_value(text[text.rfind("=") + 1 :].strip())

    def read_program(self, text: str) -> Program | None:
        tree = read_compact(text[text.rfind("=") + 1 :].strip())
        return program(tree) if tree else None

    def offer(self, program: Program, given: Value) -> str:
        return f"{write_compact(program.tree)}@{compact_value(given)}"

    def read_offer(self, text: str) -> tuple[Program, Value] | None:
        said, _, rest = text.strip().partition("@")
        tree, given = read_compact(said), read_compact_value(rest)
        found = program(tree) if tree else None
        return None if found is None or given is None else (found, given)

    def ask(self, mode: str, offers: Sequence[str], limits: Limits) -> str:
        return mode[0].upper() + ("".join(f"{offer}?" for offer in offers) or "?")

    def propose_tokens(self, operators: int, numbers: int) -> int:
        return 5 * operators + numbers + 5


def _followed(node: Node, found: Evaluation) -> str:
    """A program in postfix letters, each operator outside small functions followed by its value on the one input."""
    if node.op not in OPERATORS:
        return write_compact(node)
    operator = OPERATORS[node.op]
    args = (
        f"{{{write_compact(arg)}}}" if slot in FUNCTIONS else _followed(arg, found)
        for arg, slot in zip(node.args, operator.slots, strict=True)
    )
    return "".join(args) + operator.letter + compact_value(found.column(node)[0])


SLOT_NAMES: dict[Slot, str] = {
    "int": "number",
    "list": "list",
    "bool": "test",
    "same": "value",
    "number": "function of v",
    "test": "test of v",
    "fold": "function of a and v",
}


def usage(word: str) -> str:
    """How an operator is written and what it means: `take(list, number): that many numbers from the start`."""
    operator = OPERATORS[word]
    names = [SLOT_NAMES[slot] for slot in operator.slots]
    called = f"{word}({', '.join(names)})"
    if operator.symbol:
        called = f" {operator.symbol} ".join(names) if len(names) > 1 else f"{operator.symbol} {names[0]}"
    return f"{called}: {operator.meaning}"


def numbers_note(modulus: int) -> str:
    """What integers are, for a reader."""
    return f" All numbers are 0 to {modulus - 1} and wrap around: {modulus} is 0." if modulus else ""


class Words:
    """`take(reverse(x), 3) where x = [3, 1, 4, 2]`, answered with what is left after each operator, then in a tag.

    The answer is what the last <answer> tag holds. Without a tag, a value is the last list or whole number after the
    last `=`, a program is the last line.
    """

    moduli: tuple[int, ...] = (0, 10)
    max_answer = 1000
    _value = re.compile(r"\[[-0-9,\s]*\]|(?:(?<![0-9])-)?[0-9]+")

    def solve_prompt(self, problem: Problem, operators: Sequence[str]) -> str:
        variable = problem.program.variable
        used = list(dict.fromkeys(node.op for node in nodes(problem.program.tree) if node.op in OPERATORS))
        task = self.problem(problem)
        if problem.mode == "deduce":
            head = f"Work out the value of this expression: {task}."
            end = "Write what is left after each operator, then the value as <answer>VALUE</answer>."
        elif problem.mode == "abduce":
            head = f"Find a {_kind_name(problem.program)} {variable} for which {write_infix(problem.program.tree)} = "
            head += f"{infix_value(problem.output)}. Any that fits is right."
            end = f"End with your {variable} as <answer>VALUE</answer>."
        else:
            head = f"Find one expression of {variable} that gives all these values:\n{task}\nIt is tried on others too."
            end, used = "End with it as <answer>EXPRESSION</answer>.", list(operators)
        means = "".join(f"\n- {usage(word)}" for word in used)
        return f"{head}{numbers_note(problem.modulus)}\nThe operators:{means}\n{end}"

    def problem(self, problem: Problem) -> str:
        """The task itself."""
        tree, variable = write_infix(problem.program.tree), problem.program.variable
        if problem.mode == "deduce":
            return f"{tree} where {variable} = {infix_value(problem.given)}"
        if problem.mode == "abduce":
            return f"find {variable}: {tree} = {infix_value(problem.output)}"
        return "\n".join(f"{variable} = {infix_value(a)} gives {infix_value(b)}" for a, b in problem.shown)

    def worked(self, problem: Problem) -> str:
        if problem.mode == "induce":
            return f"<answer>{write_infix(problem.program.tree)}</answer>"
        if problem.mode == "abduce":
            return f"<answer>{infix_value(problem.given)}</answer>"
        states = [write_infix(node) for node in reductions(problem.program, problem.given, problem.modulus)]
        return "\n".join([*(f"= {state}" for state in states), f"<answer>{states[-1]}</answer>"])

    def read_value(self, text: str) -> Value | None:
        part = tagged(text)
        if part is None:
            part = text[text.rfind("=") + 1 :]
        last = last_match(self._value, part)
        return read_infix_value(last.group()) if last else None

    def read_program(self, text: str) -> Program | None:
        part = tagged(text)
        if part is None:
            part = text.strip()
            part = part[part.rfind("\n") + 1 :]
        tree = read_infix(part.strip(" `\t\r\n."))
        return program(tree) if tree else None

    def offer(self, program: Program, given: Value) -> str:
        return f"{write_infix(program.tree)} where {program.variable} = {infix_value(given)}"

    def read_offer(self, text: str) -> tuple[Program, Value] | None:
        line = text.strip()
        line = line[line.rfind("\n") + 1 :].strip(" `.").lower()
        said, _, rest = line.partition(" where ")
        tree = read_infix(said)
        found = program(tree) if tree else None
        variable, _, value = rest.partition("=")
        given = read_infix_value(value)
        if found is None or given is None or variable.strip() != found.variable:
            return None
        return found, given

    def ask(self, mode: str, offers: Sequence[str], limits: Limits) -> str:
        (few, many), (short, long), (low, high) = limits.lengths, limits.propose_operators, limits.values
        known = "".join(f"\n- {usage(word)}" for word in limits.operators)
        numbers = {"list": f"a list x of {few} to {many} whole numbers", "int": "a whole number n"}
        given = " or ".join(numbers[kind] for kind in limits.inputs)
        example = program(Node("reverse", (Node("x"),)) if "list" in limits.inputs else Node("range", (Node("n"),)))
        assert example is not None  # both are programs
        shown = "Tasks so far:\n" + "\n".join(offers) + "\n" if offers else ""
        return (
            f"Invent one new {WANTED[mode]}, of this kind: "
            f"{self.offer(example, (3, 8, 5) if example.variable == 'x' else 4)}\n"
            f"Take {given}, of numbers from {low} to {high}, and {short} to {long} of these operators:{known}\n"
            f"Every operator must make a difference.{numbers_note(limits.modulus)}\n"
            f"{shown}Write only the new task, on one line."
        )

    def propose_tokens(self, operators: int, numbers: int) -> int:
        return 24 * operators + 6 * numbers + 20


WANTED = {
    "deduce": "expression whose value is to be worked out",
    "abduce": "expression whose input is to be found from its value",
    "induce": "expression that is to be found from its values, with a first input",
}
"""What a proposer is asked for, by mode."""


class Brief(Words):
    """`take(reverse(x), 3) where x = [3, 1, 4, 2]`, answered `take([2, 4, 1, 3], 3) = [2, 4, 1]`: for base models.

    What the operators mean is for the examples to show. The answer is read as that of `Words`.
    """

    max_answer = 600

    def solve_prompt(self, problem: Problem, operators: Sequence[str]) -> str:
        return self.problem(problem)

    def problem(self, problem: Problem) -> str:
        if problem.mode == "induce":
            return "; ".join(f"{infix_value(a)} -> {infix_value(b)}" for a, b in problem.shown)
        return super().problem(problem)

    def worked(self, problem: Problem) -> str:
        if problem.mode == "induce":
            return write_infix(problem.program.tree)
        if problem.mode == "abduce":
            return infix_value(problem.given)
        return " = ".join(map(write_infix, reductions(problem.program, problem.given, problem.modulus)))

    def ask(self, mode: str, offers: Sequence[str], limits: Limits) -> str:
        return f"new task to {mode}" + (f", other than: {'; '.join(offers)}" if offers else "")


def _kind_name(program: Program) -> str:
    return {"list": "list of whole numbers", "int": "whole number", "bool": ""}[INPUTS[program.variable]]


FORMS: dict[str, Form] = {"compact": Compact(), "words": Words(), "brief": Brief()}
