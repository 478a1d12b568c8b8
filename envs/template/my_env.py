"""`my_env`: write a word backwards. A working environment: run its test, then make it your own."""

from __future__ import annotations

import random
from collections.abc import Sequence

from envs.answers import answer_part
from envs.base import (
    EnvSpec,
    Message,
    Rejection,
    SingleTurn,
    Split,
    Task,
    Verdict,
    split_of,
    stable_seed,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class MyEnv(SingleTurn):
    """Difficulty is the length of the word. Arguments added to __init__ become options of a recipe."""

    spec = EnvSpec(
        name="my_env",
        version="1",
        difficulties=(3, 4, 5, 6, 7, 8),
        max_new_tokens=32,
        propose_tokens=16,
        summary="write a word backwards",
    )

    def task(
        self, split: Split, index: int, seed: int, *, mode: str | None = None, difficulty: int | None = None
    ) -> Task:
        """The same arguments give the same task, for ever: all chance comes from this one generator."""
        source = stable_seed("my_env", split, index, seed, difficulty or 0)
        rng = random.Random(source)
        length = difficulty or rng.choice(self.spec.difficulties)
        while True:  # until a word is fair and belongs to the split
            word = "".join(rng.choices(LETTERS, k=length))
            if word != word[::-1] and split_of("my_env", self.family(word)) == split:
                return self.build(word, split, source, index)

    def build(self, word: str, split: Split, seed: int, index: int, shown: Sequence[Task] | None = None) -> Task:
        """A task, with the truth that this environment derives itself: never what a proposer claims."""
        return Task(
            env="my_env",
            env_version=self.spec.version,
            split=split,
            seed=seed,
            index=index,
            mode="solve",
            difficulty=len(word),
            prompt=(Message("user", f"Write {word} backwards."),),
            payload={"answer": word[::-1]},
            content=word,
            family=self.family(word),
            origin="procedural" if shown is None else "proposed",
            parents=tuple(t.key for t in shown or ()),
        )

    def family(self, word: str) -> str:
        """One text for all forms of one problem; a held-out problem must not return under another name."""
        return min(word, word[::-1])

    def parse(self, task: Task, text: str) -> str | None:
        """The answer in what the model wrote: its last <answer> tag, else all of it. Never raises."""
        return answer_part(text).strip(" .\n") or None

    def verify(self, task: Task, text: str) -> Verdict:
        """A wrong answer is data, not an error."""
        answer = self.parse(task, text)
        if answer is None:
            return Verdict(0.0, "unparsed")
        return Verdict(1.0, "ok") if answer == task.payload["answer"] else Verdict(0.0, "wrong")

    def gold(self, task: Task) -> str:
        """An answer that passes; with its working, where that helps a model to learn."""
        return str(task.payload["answer"])

    # The four methods below let a model propose tasks; without them the environment is only solved.

    def ask(self, mode: str, shown: Sequence[Task], seed: int) -> tuple[Message, ...]:
        lines = [f"Give one new word of 3 to 8 letters, a to z.{' Not these:' if shown else ''}"]
        return (Message("user", "\n".join([*lines, *(self.offer(task) for task in shown)])),)

    def admit(self, mode: str, text: str, shown: Sequence[Task], seed: int) -> Task | Rejection:
        """A proposal becomes a task, or is turned down for a reason out of envs.base.REASONS, in that order."""
        word = text.strip()
        if not word or set(word) - set(LETTERS):
            return Rejection("format", text[:80])
        if len(word) not in self.spec.difficulties:
            return Rejection("bounds", f"{len(word)} letters, allowed 3 to 8")
        if word == word[::-1]:
            return Rejection("answer_in_prompt", "a palindrome")
        if split_of("my_env", self.family(word)) != "train":
            return Rejection("held_out")
        return self.build(word, "train", seed, -1, shown)

    def offer(self, task: Task) -> str:
        """What a proposer writes to propose this very task."""
        return task.content

    def shape(self, task: Task) -> str:
        """A coarse bucket, for counting how varied the proposals are."""
        return str(task.difficulty)
