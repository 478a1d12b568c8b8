"""`sums`: sums and differences of whole numbers, `47 + 5 - 12 =`; natural text for pretrained language models.

Difficulty is 10 * digits + terms: 23 means three terms, of which the longest has two digits.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from envs import options
from envs.answers import answer_part, last_integer
from envs.base import (
    EnvError,
    EnvSpec,
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

TRIES = 10_000
GUESS_DRAWS = 200
MAX_PROPOSAL = 4096
"""Longest proposal, in characters, that is read at all."""

FORMS = {"plain": " ", "compact": ""}
"""What stands around an operator: `47 + 5 - 12 =` or `47+5-12=`."""

OK, WRONG, UNPARSED = Verdict(1.0, "ok"), Verdict(0.0, "wrong"), Verdict(0.0, "unparsed")

_PROPOSAL = re.compile(r"[0-9]{1,18}(?: ?[+-] ?[0-9]{1,18})* ?=?")
_TERM = re.compile(r"([+-]?) ?([0-9]+)")


class Sums(SingleTurn):
    """The answer is the last whole number of the text, or of the last <answer> tag.

    Args:
      form: "plain" (spaces, for pretrained models) or "compact" (none, for character-level ones).
      terms: smallest and largest number of terms.
      digits: smallest and largest length of the longest term.
      guess_limit: a pattern of signs and lengths on which a constant is right more often is refused as guessable.
    """

    def __init__(
        self,
        *,
        form: str = "plain",
        terms: Sequence[int] = (2, 4),
        digits: Sequence[int] = (1, 3),
        guess_limit: float = 0.2,
    ) -> None:
        self.space = FORMS[options.one_of("sums", "form", form, FORMS)]
        self.terms = options.bounds("sums", "terms", terms, least=2, most=9)
        self.digits = options.bounds("sums", "digits", digits, least=1, most=9)
        self.guess_limit = options.fraction("sums", "guess_limit", guess_limit)
        self.spec = EnvSpec(
            name="sums",
            version="1",
            difficulties=tuple(
                10 * d + t
                for d in range(self.digits[0], self.digits[1] + 1)
                for t in range(self.terms[0], self.terms[1] + 1)
            ),
            max_new_tokens=_solve_tokens(self.terms[1], self.digits[1]),
            propose_tokens=self.terms[1] * (self.digits[1] + 3) + 1,
            summary="sums and differences of whole numbers; difficulty is 10 * digits + terms",
        )

    def task(
        self, split: Split, index: int, seed: int, *, mode: str | None = None, difficulty: int | None = None
    ) -> Task:
        """The task at a place: draws until one is fair and belongs to the split."""
        mode, difficulty = options.place(self.spec, split, index, mode, difficulty)
        source = stable_seed("sums", split, index, seed, mode, -1 if difficulty is None else difficulty)
        rng = random.Random(source)
        digits, count = divmod(rng.choice(self.spec.difficulties) if difficulty is None else difficulty, 10)
        for _ in range(TRIES):
            terms = _draw(rng, count, digits)
            if split_of("sums", family_text(terms)) == split and self._unfair(terms) is None:
                return self._task(mode, split, source, index, terms)
        raise EnvError(f"sums: no fair {split} task of {count} terms and {digits} digits in {TRIES} draws")

    def parse(self, task: Task, text: str) -> int | None:
        return last_integer(answer_part(text))

    def verify(self, task: Task, text: str) -> Verdict:
        answer = self.parse(task, text)
        if answer is None:
            return UNPARSED
        return OK if answer == task.payload["answer"] else WRONG

    def gold(self, task: Task) -> str:
        """Adds from left to right, one term a step: `52 - 12 = 40` after `47 + 5 - 12 =`."""
        terms = list(task.payload["terms"])
        steps = []
        while len(terms) > 1:
            terms = [terms[0] + terms[1], *terms[2:]]
            steps.append(self._write(terms))
        return f"{self.space}={self.space}".join(steps)

    def ask(self, mode: str, shown: Sequence[Task], seed: int) -> tuple[Message, ...]:
        problems = [self.offer(task) for task in shown]
        if not self.space:
            return (Message("user", "".join(problem + "?" for problem in problems) or "?"),)
        (few, many), (short, long) = self.terms, self.digits
        lines = [
            "Write one new sum of whole numbers, such as 47 + 5 - 12.",
            f"Use {few} to {many} numbers joined by + and -; the longest one has {short} to {long} digits.",
            *(["Sums so far:", *problems] if problems else []),
            "Write only the new sum, without its result, on one line.",
        ]
        return (Message("user", "\n".join(lines)),)

    def offer(self, task: Task) -> str:
        return self._write(task.payload["terms"])

    def shape(self, task: Task) -> str:
        """Signs and lengths of the terms: `+2 +1 -2`."""
        return " ".join(f"{'-' if term < 0 else '+'}{len(str(abs(term)))}" for term in task.payload["terms"])

    def admit(self, mode: str, text: str, shown: Sequence[Task], seed: int) -> Task | Rejection:
        """Turn a proposal into a task. Sums are safe, run and are deterministic: those reasons never occur."""
        terms = read_sum(text)
        if terms is None:
            return Rejection("format", text[:80])
        longest = max(len(str(abs(term))) for term in terms)
        if not self.terms[0] <= len(terms) <= self.terms[1]:
            return Rejection("bounds", f"{len(terms)} terms, allowed {self.terms[0]} to {self.terms[1]}")
        if not self.digits[0] <= longest <= self.digits[1]:
            return Rejection("bounds", f"{longest} digits, allowed {self.digits[0]} to {self.digits[1]}")
        if 0 in terms:
            return Rejection("bounds", "a term is 0")
        unfair = self._unfair(terms)
        if unfair is not None:
            return unfair
        if (split := split_of("sums", family_text(terms))) != "train":
            return Rejection("held_out", f"its family is in {split}")
        return self._task(mode, "train", seed, -1, terms, "proposed", tuple(task.key for task in shown))

    def _unfair(self, terms: Sequence[int]) -> Rejection | None:
        """A constant would do, or the answer's digits stand in the prompt as one of its numbers."""
        pattern = tuple(sorted((term > 0, len(str(abs(term)))) for term in terms))
        if guess_bound(pattern) > self.guess_limit and (share := guess_share(pattern)) > self.guess_limit:
            return Rejection("guessable", f"one answer fits {share:.0%} of such sums")
        if abs(sum(terms)) in {abs(term) for term in terms}:
            return Rejection("answer_in_prompt", f"{sum(terms)} stands in the prompt")
        return None

    def _write(self, terms: Sequence[int]) -> str:
        first, *rest = terms
        signs = (f"{self.space}{'-' if term < 0 else '+'}{self.space}{abs(term)}" for term in rest)
        return f"{first}{''.join(signs)}"

    def _task(
        self,
        mode: str,
        split: Split,
        seed: int,
        index: int,
        terms: Sequence[int],
        origin: Origin = "procedural",
        parents: tuple[str, ...] = (),
    ) -> Task:
        return Task(
            env="sums",
            env_version=self.spec.version,
            split=split,
            seed=seed,
            index=index,
            mode=mode,
            difficulty=10 * max(len(str(abs(term))) for term in terms) + len(terms),
            prompt=(Message("user", f"{self._write(terms)}{self.space}="),),
            payload={"terms": list(terms), "answer": sum(terms)},
            content=" ".join(f"{term:+d}" for term in terms),
            family=family_text(terms),
            origin=origin,
            parents=parents,
        )


def read_sum(text: str) -> list[int] | None:
    """The signed terms of the sum on the last line of a text, or None; our own parser, nothing is evaluated."""
    lines = text.strip().splitlines() if len(text) <= MAX_PROPOSAL else []
    line = lines[-1].strip().replace("\N{MINUS SIGN}", "-") if lines else ""
    if not _PROPOSAL.fullmatch(line):
        return None
    return [-int(digits) if sign == "-" else int(digits) for sign, digits in _TERM.findall(line)]


def family_text(terms: Sequence[int]) -> str:
    """Canonical text under commutation: terms that cancel are gone, the rest stand in order of value."""
    count = Counter[int]()
    for term in terms:
        count[abs(term)] += 1 if term > 0 else -1
    left = [size if net > 0 else -size for size, net in count.items() for _ in range(abs(net))]
    return " ".join(f"{term:+d}" for term in sorted(left)) or "0"


def guess_bound(pattern: tuple[tuple[bool, int], ...]) -> float:
    """No answer of a random sum is likelier than one value of its longest term: 1 / (9 * 10^(digits - 1))."""
    return float(1 / (9 * 10 ** (max(digits for _, digits in pattern) - 1)))


@lru_cache(maxsize=1 << 16)
def guess_share(pattern: tuple[tuple[bool, int], ...]) -> float:
    """Share of random sums with these (is positive, digits) that the most common answer gets right."""
    rng = random.Random(stable_seed("sums guess", repr(pattern)))
    answers = Counter(
        sum(_number(rng, digits) * (1 if positive else -1) for positive, digits in pattern) for _ in range(GUESS_DRAWS)
    )
    return max(answers.values()) / GUESS_DRAWS


def _number(rng: random.Random, digits: int) -> int:
    return rng.randrange(10 ** (digits - 1), 10**digits)


def _draw(rng: random.Random, count: int, digits: int) -> list[int]:
    """Signed terms, the first positive; one place has all the digits, the others 1 or more."""
    lengths = [rng.randint(1, digits) for _ in range(count)]
    lengths[rng.randrange(count)] = digits
    numbers = [_number(rng, length) for length in lengths]
    return [numbers[0], *(rng.choice((1, -1)) * number for number in numbers[1:])]


def _solve_tokens(terms: int, digits: int) -> int:
    """Characters of the longest worked answer and its end; a running total may gain a digit and a sign."""
    expressions = sum((digits + 2) + (terms - 1 - done) * (digits + 3) for done in range(1, terms))
    return expressions + 3 * (terms - 2) + 1
