"""Which tasks the run has met, who proposed them, and how they were solved: by content, bounded, bit for bit.

Fed in unit order, read by novelty pay, by the tasks that an ask shows, and by replay. A task met again moves to the
young end; past the capacity the one met longest ago goes, so the archive never freezes on its oldest tasks.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Iterable, Iterator

import msgspec

from envs.base import Task
from selfplay.errors import CheckpointError
from selfplay.records import FORMAT, Group, PolicyRef, decode, encode

REPLAY_FLOOR = 0.01
"""Weight of a task that was always or never solved, against 1 for one that was solved half of the time."""


class Entry(msgspec.Struct, kw_only=True):
    """One task with its lineage and its record; `task.parents` are the keys that its proposer was shown."""

    task: Task
    shape: str
    """The environment's coarse bucket."""
    first_generation: int
    first_step: int
    last_step: int
    """Learner step that met it last."""
    proposer: PolicyRef | None
    """Who proposed it first; None = it was given."""
    proposed: int = 0
    """Times that it was proposed."""
    met: int = 0
    """Times that it was proposed or given."""
    attempts: int = 0
    """Judged attempts over all versions."""
    solves: int = 0
    """Of these, solved."""
    solver: PolicyRef | None = None
    """Who attempted it last."""
    last_p: float | None = None
    """Solve rate of the last group that was judged."""


class _Saved(msgspec.Struct):
    format: int
    capacity: int
    entries: list[Entry]


class TaskArchive:
    """Tasks by content key, the one met longest ago first."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be >= 1, got {capacity}")
        self.capacity = capacity
        self._entries: dict[str, Entry] = {}
        self._index: dict[tuple[str, str], dict[str, Task]] = {}  # (env, mode) -> its part of _entries, same order
        self._shapes: Counter[tuple[str, str]] = Counter()  # (env, shape) -> distinct tasks held

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def get(self, key: str) -> Entry | None:
        """The entry of a task, or None."""
        return self._entries.get(key)

    def record(self, groups: Iterable[Group]) -> None:
        """Take in groups, in unit order; a rejected proposal leaves no trace.

        Raises:
          ValueError: a group of a held-out split, which must never be shown or replayed.
        """
        for group in groups:
            if group.split != "train" or group.kind == "evaluate":
                raise ValueError(f"the archive takes tasks of training only, got {group.kind} on split {group.split}")
            if group.task is not None:
                self._record(group, group.task)

    def count(self, key: str) -> int:
        """Times that a task was met; 0 = unknown (or forgotten)."""
        entry = self._entries.get(key)
        return 0 if entry is None else entry.met

    def novelty(self, key: str) -> float:
        """1 / (1 + count): 1 for a task never met."""
        return 1.0 / (1 + self.count(key))

    def shape_count(self, shape: str, *, env: str) -> int:
        """Distinct tasks held in a coarse bucket of an environment."""
        return self._shapes[env, shape]

    def sample(self, n: int, seed: int, *, env: str, mode: str) -> list[Task]:
        """Up to n distinct tasks, uniformly; a function of the seed and of what was recorded."""
        tasks = list(self._index.get((env, mode), {}).values())
        return random.Random(seed).sample(tasks, min(n, len(tasks)))

    def sample_learnable(self, n: int, seed: int, *, env: str, mode: str) -> list[Task]:
        """Up to n distinct tasks, drawn one after the other by 4 p (1 - p) + REPLAY_FLOOR, p the last solve rate.

        Source: prioritised level replay, arXiv:2010.03934, with the learnability of arXiv:2502.12272 as the score; the
        draw without replacement by exponential keys is Efraimidis & Spirakis 2006.
        """
        rng = random.Random(seed)
        keyed = []
        for key, task in self._index.get((env, mode), {}).items():
            p = self._entries[key].last_p
            weight = REPLAY_FLOOR + (1.0 if p is None else 4 * p * (1 - p))
            keyed.append((rng.expovariate(weight), key, task))
        return [task for _, _, task in heapq.nsmallest(n, keyed)]

    def to_bytes(self) -> bytes:
        """The whole archive; equal archives give equal bytes."""
        return encode(_Saved(FORMAT, self.capacity, list(self._entries.values())))

    @classmethod
    def from_bytes(cls, data: bytes, *, capacity: int | None = None) -> TaskArchive:
        """The inverse of `to_bytes`.

        Args:
          capacity: another bound than the saved one.

        Raises:
          CheckpointError: the bytes are no archive of this format.
        """
        try:
            saved = decode(data, _Saved)
        except msgspec.MsgspecError as e:
            raise CheckpointError(f"the task archive cannot be read: {e}") from None
        if saved.format != FORMAT:
            raise CheckpointError(f"the task archive is of format {saved.format}, this code reads format {FORMAT}")
        archive = cls(capacity or saved.capacity)
        for entry in saved.entries:
            archive._add(entry)
        archive._evict()
        return archive

    def _record(self, group: Group, task: Task) -> None:
        entry = self._entries.get(task.key)
        if entry is None:
            entry = Entry(
                task=task,
                shape=group.shape,
                first_generation=group.generation,
                first_step=group.step,
                last_step=group.step,
                proposer=group.proposal.policy if group.proposal else None,
            )
            self._add(entry)
        else:
            self._rejuvenate(task.key)
        entry.last_step = group.step
        entry.met += 1
        entry.proposed += group.proposal is not None
        judged = group.valid
        if judged:
            solved = sum(a.verdict.status == "ok" for a in judged)
            entry.attempts += len(judged)
            entry.solves += solved
            entry.solver, entry.last_p = judged[-1].policy, solved / len(judged)
        self._evict()

    def _add(self, entry: Entry) -> None:
        task = entry.task
        self._entries[task.key] = entry
        self._index.setdefault((task.env, task.mode), {})[task.key] = task
        self._shapes[task.env, entry.shape] += 1

    def _rejuvenate(self, key: str) -> None:
        entry = self._entries.pop(key)
        self._entries[key] = entry
        part = self._index[entry.task.env, entry.task.mode]
        part[key] = part.pop(key)

    def _evict(self) -> None:
        while len(self._entries) > self.capacity:
            key, entry = next(iter(self._entries.items()))
            del self._entries[key]
            del self._index[entry.task.env, entry.task.mode][key]
            self._shapes[entry.task.env, entry.shape] -= 1
