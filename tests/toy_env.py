"""An environment that a model with random weights plays: it proposes valid tasks, solves some, and learns at once.

Of a text counts its last character. Difficulty d asks for one whose code is a multiple of d + 1, so that a random
letter is right with chance 1 / (d + 1). With all else as stop texts few are cut off for long.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from envs.base import EnvSpec, Message, Rejection, SingleTurn, Split, Task, Verdict, split_of, stable_seed

LETTERS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
STOPS = tuple(c for c in map(chr, (10, *range(32, 127))) if c not in LETTERS)
NAME = "toy_env:Toy"


class Toy(SingleTurn):
    """Tasks are numbered; a proposal's number follows from its text, its difficulty from its last character."""

    def __init__(self) -> None:
        self.spec = EnvSpec(
            name="toy", version="1", difficulties=(1, 2), max_new_tokens=4, propose_tokens=4, summary="for tests"
        )

    def task(
        self, split: Split, index: int, seed: int, *, mode: str | None = None, difficulty: int | None = None
    ) -> Task:
        for attempt in range(1000):
            number = stable_seed("toy", split, index, seed, attempt) % 10**9
            if split_of("toy", str(number)) == split:
                return self._task(number, split, index, difficulty or 1 + index % 2, ())
        raise AssertionError("a tenth of all numbers is in each held-out split")

    def parse(self, task: Task, text: str) -> Any | None:
        return text[-1:] or None

    def verify(self, task: Task, text: str) -> Verdict:
        if not text or text[-1] not in LETTERS:
            return Verdict(0.0, "unparsed")
        right = ord(text[-1]) % (task.difficulty + 1) == 0
        return Verdict(float(right), "ok" if right else "wrong")

    def gold(self, task: Task) -> str:
        return next(c for c in LETTERS if ord(c) % (task.difficulty + 1) == 0)

    def ask(self, mode: str, shown: Sequence[Task], seed: int) -> tuple[Message, ...]:
        return (Message("user", "".join(f"{t.content}," for t in shown) + "?"),)

    def offer(self, task: Task) -> str:
        raise NotImplementedError("a number does not tell the text that it came from")

    def admit(self, mode: str, text: str, shown: Sequence[Task], seed: int) -> Task | Rejection:
        if not text or text[-1] not in LETTERS:
            return Rejection("format")
        number = stable_seed("toy proposal", text) % 10**9
        if split_of("toy", str(number)) != "train":
            return Rejection("held_out")
        return self._task(number, "train", -1, 1 + ord(text[-1]) % 2, tuple(t.key for t in shown))

    def shape(self, task: Task) -> str:
        return f"difficulty {task.difficulty}"

    def _task(self, number: int, split: Split, index: int, difficulty: int, parents: tuple[str, ...]) -> Task:
        return Task(
            env="toy", env_version=self.spec.version, split=split, seed=number, index=index, mode="solve",
            difficulty=difficulty, prompt=(Message("user", f"{number % 100}:"),), payload={}, content=str(number),
            family=str(number), origin="procedural" if index >= 0 else "proposed", parents=parents,
        )  # fmt: skip
