"""`chain`: a short list of numbers and a chain of operators, each of which changes it; the answer is the final list.

`3142rsi=` means reverse, sort, increment: 2413, 1234, 2345. A solver may write the steps first
(`2413si=1234i=2345`); only the end is judged. One learnt step serves chains of any length.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from envs import options
from envs.base import (
    EnvError,
    EnvSpec,
    EnvUserError,
    Message,
    Origin,
    Rejection,
    SingleTurn,
    Split,
    Task,
    Verdict,
    split_of,
    stable_seed,
)
from envs.chain_forms import FORMS, LETTERS, WORDS, Form
from envs.chain_rules import OPERATORS, NormalForm, State, content_text, family_text, guess_share, idle, normal_form

DIFFICULTIES = tuple(range(1, 11))
MAX_NUMBERS, MAX_OPERATORS = 12, 24
"""The widest bounds that options may set."""
TRIES = 10_000
"""Draws after which `task` gives up; a tenth of all families is in `test`, so hundreds are plenty."""

OK, WRONG, UNPARSED = Verdict(1.0, "ok"), Verdict(0.0, "wrong"), Verdict(0.0, "unparsed")


class Chain(SingleTurn):
    """Difficulty is the number of operators. Content and family do not depend on the surface form.

    Args:
      form: "compact" (characters, digits modulo 10), "words" (lists and English, for chat models), or "brief" (the same
        in few tokens and without explanations, for base models that are shown examples).
      operators: words of the operators in use, such as ["sort", "largest"]; None = all that the form can say.
      values: smallest and largest number in a list; None = 0 to modulus - 1.
      digits: smallest and largest count of numbers in the tasks that `task` poses.
      modulus: numbers are 0 .. modulus - 1; 10 in compact, 100 (default) or 10 in words and brief.
      propose_digits: smallest and largest count of numbers in a proposal; None = 3 to 6, and all that `digits` allows.
      propose_operators: smallest and largest count of operators in a proposal.
      guess_limit: a program on which a constant answer is right more often than this is refused as guessable.
    """

    def __init__(
        self,
        *,
        form: str = "compact",
        operators: Sequence[str] | None = None,
        values: Sequence[int] | None = None,
        digits: Sequence[int] = (4, 4),
        modulus: int | None = None,
        propose_digits: Sequence[int] | None = None,
        propose_operators: Sequence[int] = (1, 12),
        guess_limit: float = 0.2,
    ) -> None:
        self.form = FORMS[options.one_of("chain", "form", form, FORMS)]
        least = self.form.least_numbers
        self.digits = options.bounds("chain", "digits", digits, least=least, most=MAX_NUMBERS)
        moduli = self.form.moduli
        self.modulus = options.one_of("chain", "modulus", moduli[0] if modulus is None else modulus, moduli)
        top = self.modulus - 1
        self.values = options.bounds("chain", "values", (0, top) if values is None else values, least=0, most=top)
        self.operators = _letters(self.form, operators)
        self._inner = "".join(o for o in self.operators if o in OPERATORS)
        if propose_digits is None:
            propose_digits = (min(3, self.digits[0]), max(6, self.digits[1]))
        self.propose_digits = options.bounds("chain", "propose_digits", propose_digits, least=least, most=MAX_NUMBERS)
        self.propose_operators = options.bounds(
            "chain", "propose_operators", propose_operators, least=1, most=MAX_OPERATORS
        )
        self.guess_limit = options.fraction("chain", "guess_limit", guess_limit)
        self.spec = EnvSpec(
            name="chain",
            version="1",
            difficulties=DIFFICULTIES if self._inner else DIFFICULTIES[:1],
            max_new_tokens=self.form.solve_tokens(self.digits[1], DIFFICULTIES[-1]),
            propose_tokens=self.form.propose_tokens(self.propose_digits[1], self.propose_operators[1]),
            summary="a list of numbers and a chain of operators; the answer is the final list",
        )

    def task(
        self, split: Split, index: int, seed: int, *, mode: str | None = None, difficulty: int | None = None
    ) -> Task:
        """The task at a place: draws until one is fair and belongs to the split."""
        mode, difficulty = options.place(self.spec, split, index, mode, difficulty)
        source = stable_seed("chain", split, index, seed, mode, -1 if difficulty is None else difficulty)
        rng = random.Random(source)
        count = rng.choice(self.spec.difficulties) if difficulty is None else difficulty
        for _ in range(TRIES):
            state, program = self._draw(rng, count)
            normal = normal_form(program, len(state), self.modulus)
            family = family_text(state, normal, self.modulus)
            if split_of("chain", family) != split:  # what most held-out draws fail at comes first
                continue
            if idle(state, program, self.modulus) is None and self._unfair(state, normal) is None:
                return self._task(mode, split, source, index, state, program, normal, family)
        raise EnvError(f"chain: no fair {split} task of difficulty {count} in {TRIES} draws")

    def parse(self, task: Task, text: str) -> Any | None:
        return self.form.read_answer(text)

    def verify(self, task: Task, text: str) -> Verdict:
        answer = self.form.read_answer(text)
        if answer is None:
            return UNPARSED
        return OK if answer == task.payload["answer"] else WRONG

    def gold(self, task: Task) -> str:
        state, program, modulus = _problem_of(task)
        return self.form.worked(state, program, modulus)

    def ask(self, mode: str, shown: Sequence[Task], seed: int) -> tuple[Message, ...]:
        return (Message("user", self.form.propose_prompt([self.offer(task) for task in shown], self)),)

    def offer(self, task: Task) -> str:
        state, program, _ = _problem_of(task)
        return self.form.problem(state, program)

    def shape(self, task: Task) -> str:
        """The operators, whatever their order and the numbers."""
        return "".join(sorted(task.payload["program"]))

    def admit(self, mode: str, text: str, shown: Sequence[Task], seed: int) -> Task | Rejection:
        """Turn a proposal into a task. Programs are safe, run and are deterministic: those reasons never occur."""
        found = self.form.read_problem(text)
        if found is None:
            return Rejection("format", text[:80])
        state, program = found
        outside = self._outside(state, program)
        if outside:
            return Rejection("bounds", outside)
        normal = normal_form(program, len(state), self.modulus)
        unfair = self._unfair(state, normal)
        if unfair is not None:
            return unfair
        family = family_text(state, normal, self.modulus)
        if (split := split_of("chain", family)) != "train":
            return Rejection("held_out", f"its family is in {split}")
        parents = tuple(task.key for task in shown)
        return self._task(mode, "train", seed, -1, state, program, normal, family, "proposed", parents)

    def _draw(self, rng: random.Random, count: int) -> tuple[State, str]:
        low, high = self.values
        state = tuple(rng.choices(range(low, high + 1), k=rng.randint(*self.digits)))
        inner = rng.choices(self._inner, k=count - 1) if count > 1 else []
        return state, "".join(inner) + rng.choice(self.operators)

    def _outside(self, state: State, program: str) -> str:
        """Which bound a proposal breaks; empty if none."""
        few, many = self.propose_digits
        short, long = self.propose_operators
        if not few <= len(state) <= many:
            return f"{len(state)} numbers, allowed {few} to {many}"
        if not short <= len(program) <= long:
            return f"{len(program)} operators, allowed {short} to {long}"
        low, high = self.values
        for number in state:
            if not low <= number <= high:
                return f"number {number}, allowed {low} to {high}"
        for operator in program:
            if operator not in self.operators:
                return f"operator {WORDS[operator]} is not in use"
        place = idle(state, program, self.modulus)
        return "" if place is None else f"operator {place + 1}, {program[place]}, changes nothing"

    def _unfair(self, state: State, normal: NormalForm) -> Rejection | None:
        """A constant would do, or the answer can be copied: the list itself, or a number that all its places hold."""
        share = guess_share(normal, self.modulus, self.values)
        if share > self.guess_limit:
            return Rejection("guessable", f"one answer fits {share:.0%} of lists")
        final = normal.apply(state, self.modulus)
        if final == state or (normal.last and set(state) == set(final)):
            return Rejection("answer_in_prompt", "the final state is the initial one")
        return None

    def _task(
        self,
        mode: str,
        split: Split,
        seed: int,
        index: int,
        state: State,
        program: str,
        normal: NormalForm,
        family: str,
        origin: Origin = "procedural",
        parents: tuple[str, ...] = (),
    ) -> Task:
        final = normal.apply(state, self.modulus)
        return Task(
            env="chain",
            env_version=self.spec.version,
            split=split,
            seed=seed,
            index=index,
            mode=mode,
            difficulty=len(program),
            prompt=(Message("user", self.form.solve_prompt(state, program, self.modulus)),),
            payload={
                "state": list(state),
                "program": program,
                "modulus": self.modulus,
                "answer": self.form.answer(final, program),
            },
            content=content_text(state, program, self.modulus),
            family=family,
            origin=origin,
            parents=parents,
        )


def _problem_of(task: Task) -> tuple[State, str, int]:
    payload = task.payload
    return tuple(payload["state"]), payload["program"], payload["modulus"]


def _letters(form: Form, words: Sequence[str] | None) -> str:
    """The operators of a form that are in use, in the form's order."""
    said = [WORDS[o] for o in form.operators]
    words = [words] if isinstance(words, str) else words
    chosen = said if words is None else [options.one_of("chain", "operators", word, said) for word in words]
    if not chosen:
        raise EnvUserError(f"chain: option operators must name at least one of {', '.join(said)}")
    return "".join(LETTERS[word] for word in said if word in chosen)
