"""The surface forms of `chain`: compact characters for tiny models, words over number lists for pretrained ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

from envs.answers import last_match, tagged
from envs.chain_rules import LAST, OPERATORS, State, run

MAX_PROPOSAL = 4096
"""Longest proposal, in characters, that is read at all."""


class Form(Protocol):
    """How tasks, answers and proposals are written."""

    operators: str
    """Letters of all operators that this form can say."""
    moduli: tuple[int, ...]
    """What numbers may wrap around at; the default first."""
    least_numbers: int
    """Fewest numbers in a list."""

    def problem(self, state: State, program: str) -> str:
        """The task itself, which is also how a proposer writes it."""

    def solve_prompt(self, state: State, program: str, modulus: int) -> str:
        """What the solver is shown."""

    def worked(self, state: State, program: str, modulus: int) -> str:
        """The full answer with every step."""

    def answer(self, final: State, program: str) -> Any:
        """The final state as `read_answer` would return it."""

    def read_answer(self, text: str) -> Any | None:
        """The answer found in a text, or None."""

    def read_problem(self, text: str) -> tuple[State, str] | None:
        """The inverse of `problem`, or None: the state's numbers and the program, not checked against any bound."""

    def propose_prompt(self, problems: Sequence[str], limits: Limits) -> str:
        """What the proposer is shown."""

    def solve_tokens(self, numbers: int, operators: int) -> int:
        """Characters of the longest worked answer, with one more for its end."""

    def propose_tokens(self, numbers: int, operators: int) -> int:
        """Characters of the longest proposal, with one more for its end."""


class Limits(Protocol):
    """What a proposal may hold: operators, smallest and largest number, smallest and largest counts."""

    modulus: int
    operators: str
    values: tuple[int, int]
    propose_digits: tuple[int, int]
    propose_operators: tuple[int, int]


class Compact:
    """`3142rsi=`, answered `2413si=1234i=2345`: each step writes the state and the operators that remain."""

    operators = OPERATORS
    moduli: tuple[int, ...] = (10,)
    least_numbers = 2
    _problem = re.compile(rf"([0-9]+)([{OPERATORS}]+)")

    def problem(self, state: State, program: str) -> str:
        return "".join(map(str, state)) + program

    def solve_prompt(self, state: State, program: str, modulus: int) -> str:
        return self.problem(state, program) + "="

    def worked(self, state: State, program: str, modulus: int) -> str:
        states = run(state, program, modulus)
        return "=".join(self.problem(after, program[k + 1 :]) for k, after in enumerate(states))

    def answer(self, final: State, program: str) -> str:
        return "".join(map(str, final))

    def read_answer(self, text: str) -> str | None:
        last = text[text.rfind("=") + 1 :].strip()
        return last if last.isascii() and last.isdigit() else None

    def read_problem(self, text: str) -> tuple[State, str] | None:
        found = self._problem.fullmatch(text.strip()) if len(text) <= MAX_PROPOSAL else None
        return (tuple(map(int, found[1])), found[2]) if found else None

    def propose_prompt(self, problems: Sequence[str], limits: Limits) -> str:
        return "".join(problem + "?" for problem in problems) or "?"

    def solve_tokens(self, numbers: int, operators: int) -> int:
        return numbers * operators + operators * (operators - 1) // 2 + operators - 1 + 1

    def propose_tokens(self, numbers: int, operators: int) -> int:
        return numbers + operators + 1


WORDS = {
    "r": "reverse",
    "s": "sort",
    "l": "rotate",
    "x": "swap",
    "i": "increment",
    "d": "double",
    "c": "complement",
    "g": "largest",
    "m": "smallest",
    "t": "sum",
    "f": "first",
    "e": "last",
}
LETTERS = {word: letter for letter, word in WORDS.items()}


def meanings(modulus: int) -> dict[str, str]:
    """What each operator's word means, for the solver."""
    return {
        "r": "turn the order of the list around",
        "s": "put the list in ascending order",
        "l": "move the first number to the end",
        "x": "swap the first and the last number",
        "i": f"add 1 to every number ({modulus - 1} becomes 0)",
        "d": f"double every number, modulo {modulus}",
        "c": f"replace every number v by {modulus - 1} - v",
        "g": "the largest number of the list",
        "m": "the smallest number of the list",
        "t": "the sum of the list",
        "f": "the first number of the list",
        "e": "the last number of the list",
    }


class Words:
    """`reverse [3, 8, 5], then largest`, answered with the list after each step and `<answer>8</answer>`.

    The answer is the last list or whole number in the last <answer> tag; without a tag, after the last `=`;
    without that, in the whole text.
    """

    operators = OPERATORS + "gmt"
    moduli: tuple[int, ...] = (100, 10)
    least_numbers = 2
    _problem = re.compile(r"([a-z]+) \[([0-9, ]+)\]((?:, then [a-z]+)*)\.?")
    _answer = re.compile(r"\[[0-9,\s]*\]|-?[0-9]+")

    def problem(self, state: State, program: str) -> str:
        first, *rest = (WORDS[operator] for operator in program)
        return f"{first} {list(state)}" + "".join(f", then {word}" for word in rest)

    def solve_prompt(self, state: State, program: str, modulus: int) -> str:
        meaning = meanings(modulus)
        used = "".join(f"\n- {WORDS[operator]}: {meaning[operator]}" for operator in dict.fromkeys(program))
        return (
            f"Follow these steps in order: {self.problem(state, program)}.\nThe steps mean:{used}\n"
            "Write what you have after each step, then the final result as <answer>RESULT</answer>."
        )

    def worked(self, state: State, program: str, modulus: int) -> str:
        states = run(state, program, modulus)
        shown = [str(self.answer(after, program[: k + 1])) for k, after in enumerate(states)]
        lines = [f"{WORDS[operator]}: {text}" for operator, text in zip(program, shown, strict=True)]
        return "\n".join([*lines, f"<answer>{shown[-1]}</answer>"])

    def answer(self, final: State, program: str) -> list[int] | int:
        return final[0] if program[-1] in LAST else list(final)

    def read_answer(self, text: str) -> list[int] | int | None:
        part = tagged(text)
        if part is None:
            part = text[text.rfind("=") + 1 :]
        last = last_match(self._answer, part)
        if last is None:
            return None
        if last.group().startswith("["):
            return _whole_numbers(last.group()[1:-1])
        one = _whole_numbers(last.group().removeprefix("-"))
        if one is None:
            return None
        return -one[0] if last.group().startswith("-") else one[0]

    def read_problem(self, text: str) -> tuple[State, str] | None:
        lines = text.strip().splitlines() if len(text) <= MAX_PROPOSAL else []
        found = self._problem.fullmatch(lines[-1].strip().lower()) if lines else None
        if found is None:
            return None
        numbers = _whole_numbers(found[2])
        words = [found[1], *found[3].split(", then ")[1:]]
        if numbers is None or any(LETTERS.get(word, "?") not in self.operators for word in words):
            return None
        program = "".join(LETTERS[word] for word in words)
        return None if any(operator in LAST for operator in program[:-1]) else (tuple(numbers), program)

    def propose_prompt(self, problems: Sequence[str], limits: Limits) -> str:
        (few, many), (short, long) = limits.propose_digits, limits.propose_operators
        (low, high), meaning = limits.values, meanings(limits.modulus)
        known = "".join(f"\n- {WORDS[operator]}: {meaning[operator]}" for operator in limits.operators)
        last = [WORDS[operator] for operator in limits.operators if operator in LAST]
        only = f" ({', '.join(last[:-1])} and {last[-1]} only as the last one)" if len(last) > 1 else ""
        example = "rt" if {"r", "t"} <= set(limits.operators) else limits.operators[0]
        shown = "Tasks so far:\n" + "\n".join(problems) + "\n" if problems else ""
        return (
            f"Invent one new task of this kind: {self.problem((3, 8, 5), example)}\n"
            f"Give {few} to {many} whole numbers from {low} to {high}, and {short} to {long} of these steps"
            f"{only}:{known}\n"
            f"{shown}Write only the new task, on one line."
        )

    def solve_tokens(self, numbers: int, operators: int) -> int:
        line = max(map(len, LETTERS)) + len(": ") + 4 * numbers + 1
        return line * operators + 4 * numbers + len("<answer></answer>") + 1

    def propose_tokens(self, numbers: int, operators: int) -> int:
        word = max(map(len, LETTERS))
        return word + 1 + 4 * numbers + (operators - 1) * (len(", then ") + word) + 1


class Brief(Words):
    """`reverse [3, 8, 5], then sum`, answered `[5, 8, 3] -> 16`: the same in few tokens, for base models with examples.

    What the operators mean is for the examples to show. The answer is read as that of `Words`.
    """

    operators = Words.operators + "fe"
    least_numbers = 1

    def solve_prompt(self, state: State, program: str, modulus: int) -> str:
        return self.problem(state, program)

    def worked(self, state: State, program: str, modulus: int) -> str:
        states = run(state, program, modulus)
        return " -> ".join(str(self.answer(after, program[: k + 1])) for k, after in enumerate(states))

    def propose_prompt(self, problems: Sequence[str], limits: Limits) -> str:
        return "new task" + (f", other than: {'; '.join(problems)}" if problems else "")

    def solve_tokens(self, numbers: int, operators: int) -> int:
        return (4 * numbers + len(" -> ")) * operators + 1


def _whole_numbers(text: str) -> list[int] | None:
    """The whole numbers between commas; None unless every one has 1 to 9 digits."""
    parts = [part.strip() for part in text.split(",")]
    if all(part.isascii() and part.isdigit() and len(part) <= 9 for part in parts):
        return [int(part) for part in parts]
    return None


FORMS: dict[str, Form] = {"compact": Compact(), "words": Words(), "brief": Brief()}
