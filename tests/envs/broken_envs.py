"""Environments that each break one promise, for test_check.py; importable in a fresh process."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from envs.base import EnvSpec, Episode, Message, Rejection, Split, Task, Turn, Verdict
from envs.template.my_env import MyEnv


def altered(task: Task, **changes: Any) -> Task:
    return msgspec.structs.replace(task, **changes)


class DescendingDifficulties(MyEnv):
    spec = msgspec.structs.replace(MyEnv.spec, difficulties=(4, 3))


class AnotherIndex(MyEnv):
    def task(self, split: Split, index: int, seed: int, **place: Any) -> Task:
        return altered(super().task(split, index, seed, **place), index=0)


class TuplePayload(MyEnv):
    def task(self, split: Split, index: int, seed: int, **place: Any) -> Task:
        task = super().task(split, index, seed, **place)
        return altered(task, payload={**task.payload, "letters": tuple(task.content)})


class GlobalChance(MyEnv):
    _global = random.Random(0)

    def task(self, split: Split, index: int, seed: int, **place: Any) -> Task:
        return super().task(split, index, self._global.randrange(2**32), **place)


class HashOrder(MyEnv):
    """The same within a process; another one has another hash seed."""

    def task(self, split: Split, index: int, seed: int, **place: Any) -> Task:
        return super().task(split, index, hash(("order", str(seed))), **place)


class NoDefaultConstructor(MyEnv):
    def __init__(self, width: int) -> None:
        self.width = width


class LeakingSplits(MyEnv):
    def task(self, split: Split, index: int, seed: int, **place: Any) -> Task:
        return altered(super().task("train", index, seed, **place), split=split)


class WrongGold(MyEnv):
    def gold(self, task: Task) -> str:
        return task.content


class GoldNotParsed(MyEnv):
    def parse(self, task: Task, text: str) -> str | None:
        return None

    def verify(self, task: Task, text: str) -> Verdict:
        right = text.strip() == task.payload["answer"]
        return Verdict(1.0, "ok") if right else Verdict(0.0, "wrong")


class GenerousToEmpty(MyEnv):
    def verify(self, task: Task, text: str) -> Verdict:
        return super().verify(task, text) if text else Verdict(1.0, "ok")


class ChokesOnSurrogates(MyEnv):
    def verify(self, task: Task, text: str) -> Verdict:
        text.encode()
        return super().verify(task, text)


class SlowOnHuge(MyEnv):
    def verify(self, task: Task, text: str) -> Verdict:
        time.sleep(len(text) / 5e6)
        return super().verify(task, text)


class RewardOutOfRange(MyEnv):
    def verify(self, task: Task, text: str) -> Verdict:
        verdict = super().verify(task, text)
        return verdict if verdict.reward else Verdict(-1.0, verdict.status)


class NotANumber(MyEnv):
    def verify(self, task: Task, text: str) -> Verdict:
        verdict = super().verify(task, text)
        return verdict if verdict.reward else Verdict(float("nan"), verdict.status)


class ImpureVerify(MyEnv):
    _calls = itertools.count()

    def verify(self, task: Task, text: str) -> Verdict:
        verdict = super().verify(task, text)
        return verdict if verdict.reward else Verdict(next(self._calls) % 2 / 2, "wrong")


class EndlessEpisode(MyEnv):
    def open(self, task: Task) -> Episode:
        return Endless()


class Endless:
    def turn(self) -> Turn | None:
        return Turn(seat=0, new_messages=())

    def act(self, seat: int, text: str) -> None:
        return None

    def verdicts(self) -> tuple[Verdict, ...]:
        return ()

    def close(self) -> None:
        return None


class TakesHeldOut(MyEnv):
    def admit(self, mode: str, text: str, shown: Sequence[Task], seed: int) -> Task | Rejection:
        found = super().admit(mode, text, shown, seed)
        held_out = isinstance(found, Rejection) and found.reason == "held_out"
        return self.build(text, "train", seed, -1, shown) if held_out else found


class RefusesItsOwn(MyEnv):
    def admit(self, mode: str, text: str, shown: Sequence[Task], seed: int) -> Task | Rejection:
        found = super().admit(mode, text, shown, seed)
        return Rejection("bounds") if isinstance(found, Task) else found


class AdmitsAnother(MyEnv):
    def admit(self, mode: str, text: str, shown: Sequence[Task], seed: int) -> Task | Rejection:
        found = super().admit(mode, text, shown, seed)
        return altered(found, content=found.content + "!") if isinstance(found, Task) else found


class ForgetsParents(MyEnv):
    def admit(self, mode: str, text: str, shown: Sequence[Task], seed: int) -> Task | Rejection:
        return super().admit(mode, text, (), seed)


class UnnamedReason(MyEnv):
    def admit(self, mode: str, text: str, shown: Sequence[Task], seed: int) -> Task | Rejection:
        found = super().admit(mode, text, shown, seed)
        silly = isinstance(found, Rejection) and found.reason == "format"
        return Rejection("because") if silly else found  # type: ignore[arg-type]


class AdmitRaises(MyEnv):
    def admit(self, mode: str, text: str, shown: Sequence[Task], seed: int) -> Task | Rejection:
        if not text.isprintable():
            raise KeyError(text[:3])
        return super().admit(mode, text, shown, seed)


class NotForThreads(MyEnv):
    """What is being judged stands in the environment itself."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = msgspec.structs.replace(self.spec, parallel=2)

    def verify(self, task: Task, text: str) -> Verdict:
        self._text = text
        time.sleep(0.002)
        return super().verify(task, self._text)


class SlowTask(MyEnv):
    def task(self, split: Split, index: int, seed: int, **place: Any) -> Task:
        time.sleep(0.03)
        return super().task(split, index, seed, **place)


class Nim:
    """A sound two-seat game: take 1 or 2 of some sticks in turn; who takes the last one wins."""

    spec = EnvSpec(
        name="nim", version="1", difficulties=(5, 6, 7), seats=2, reward_range=(-1.0, 1.0), zero_sum=True, splits=()
    )

    def size(self, split: Split) -> int | None:
        return None

    def task(
        self, split: Split, index: int, seed: int, *, mode: str | None = None, difficulty: int | None = None
    ) -> Task:
        sticks = difficulty or 5
        return Task(
            env="nim", env_version="1", split=split, seed=seed + index, index=index, mode="solve", difficulty=sticks,
            prompt=(Message("user", f"{sticks} sticks"),), payload={}, content=str(sticks), family=str(sticks),
        )  # fmt: skip

    def open(self, task: Task) -> Episode:
        return NimGame(task.difficulty, self.prize)

    prize = (1.0, -1.0)
    """Of the winner and the loser."""


class NimGame:
    def __init__(self, sticks: int, prize: tuple[float, float]) -> None:
        self.sticks, self.prize, self.seat = sticks, prize, 0

    def turn(self) -> Turn | None:
        if not self.sticks:
            return None
        legal = ("1", "2")[: self.sticks]
        return Turn(seat=self.seat, new_messages=(Message("user", f"{self.sticks} sticks"),), legal=legal)

    def act(self, seat: int, text: str) -> None:
        self.sticks -= int(text)
        self.seat = 1 - self.seat

    def verdicts(self) -> tuple[Verdict, ...]:
        win, lose = Verdict(self.prize[0], "ok"), Verdict(self.prize[1], "wrong")
        return (lose, win) if self.seat == 0 else (win, lose)

    def close(self) -> None:
        return None


class GenerousNim(Nim):
    prize = (1.0, 0.0)
