"""Which tasks the run has met: lineage, record, novelty and what they taught; by content, bounded, bit for bit.

Fed in unit order, read by novelty pay, by the tasks that an ask shows, and by replay. A task met again moves to the
young end; past the capacity the one met longest ago goes. So no age group holds its place by right: a task stays for as
long as proposers or replay come back to it, and retired ones, which replay passes over, drift to the old end and leave.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Iterable, Iterator

import msgspec

from envs.base import Task
from selfplay.config import Retire
from selfplay.errors import CheckpointError
from selfplay.novelty import Clusters
from selfplay.records import Group, PolicyRef, decode, encode
from selfplay.standing import Standing, Tally, count, standing

FORMAT = 2
"""Version of the archive's bytes: 1 had no tallies, children and clusters."""

REPLAY_FLOOR = 0.01
"""Weight of a task that was always or never solved, against 1 for one that was solved half of the time."""

CHILDREN = 32
"""Newest tasks that an entry remembers to have taught; `taught` counts on."""


class Entry(msgspec.Struct, kw_only=True):
    """One task with its lineage and its record; `task.parents` are the keys that its proposer was shown."""

    task: Task
    shape: str
    """The environment's coarse bucket."""
    cluster: str
    """Its n-gram cluster: the key of the task that led it first."""
    shape_before: int
    """Tasks of its shape that were held when it came."""
    cluster_before: int
    """Tasks of its cluster that were held when it came."""
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
    unjudged: int = 0
    """Attempts that the environment failed on, over all versions."""
    solver: PolicyRef | None = None
    """Who attempted it last."""
    last_p: float | None = None
    """Solve rate of the last group that was judged."""
    tallies: list[Tally] = []
    """Its record by solver version, oldest first; the newest `retire.versions` of them."""
    taught: int = 0
    """Admitted proposals of other tasks whose proposer was shown this one."""
    children: list[str] = []
    """Keys of these tasks, the newest CHILDREN, each once."""


class _Saved(msgspec.Struct):
    format: int
    capacity: int
    leaders: dict[str, str]
    """Of the clusters: a leader's own task may have left."""
    entries: list[Entry]


class _Head(msgspec.Struct):
    """What the bytes of every format begin with."""

    format: int
    capacity: int


class TaskArchive:
    """Tasks by content key, the one met longest ago first."""

    def __init__(self, capacity: int, retire: Retire | None = None) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be >= 1, got {capacity}")
        self.capacity, self._retire = capacity, retire or Retire()
        self._entries: dict[str, Entry] = {}
        self._index: dict[tuple[str, str], dict[str, Task]] = {}  # (env, mode) -> its part of _entries, same order
        self._shapes: Counter[tuple[str, str]] = Counter()  # (env, shape) -> distinct tasks held
        self._clusters: dict[str, Clusters] = {}  # env -> the clusters of its tasks
        self._retired: dict[str, Standing] = {}  # those that are not live

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
            if group.task is not None and not group.round:  # a follow-up says nothing of how hard a task is
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

    def cluster_count(self, task: Task) -> int:
        """Distinct tasks held in the n-gram cluster that a task is in, or would join."""
        entry, clusters = self._entries.get(task.key), self._clusters_of(task)
        return clusters.size(entry.cluster if entry else clusters.find(task.content))

    @property
    def clusters(self) -> list[int]:
        """Distinct tasks of each n-gram cluster held, of all environments."""
        return [size for clusters in self._clusters.values() for size in clusters.sizes]

    def standing(self, key: str) -> Standing:
        """Whether a held task still teaches."""
        return self._retired.get(key, "live")

    @property
    def standings(self) -> Counter[Standing]:
        """Distinct tasks held by standing."""
        found = Counter(self._retired.values())
        found["live"] = len(self) - found.total()
        return found

    def replayable(self, *, env: str, mode: str) -> list[Task]:
        """Tasks that replay may draw: all but those retired ones that were met in the last `retire.rest` steps."""
        rested = self._now - self._retire.rest
        part = self._index.get((env, mode), {})
        return [t for k, t in part.items() if k not in self._retired or self._entries[k].last_step <= rested]

    def sample(self, n: int, seed: int, *, env: str, mode: str) -> list[Task]:
        """Up to n distinct tasks, uniformly; a function of the seed and of what was recorded."""
        tasks = list(self._index.get((env, mode), {}).values())
        return random.Random(seed).sample(tasks, min(n, len(tasks)))

    def sample_replayable(self, n: int, seed: int, *, env: str, mode: str) -> list[Task]:
        """As `sample`, of the replayable ones."""
        tasks = self.replayable(env=env, mode=mode)
        return random.Random(seed).sample(tasks, min(n, len(tasks)))

    def sample_learnable(self, n: int, seed: int, *, env: str, mode: str) -> list[Task]:
        """Up to n distinct replayable tasks, one after the other by 4 p (1 - p) + REPLAY_FLOOR, p the last solve rate.

        Source: prioritised level replay, arXiv:2010.03934, with the learnability of arXiv:2502.12272 as the score; the
        draw without replacement by exponential keys is Efraimidis & Spirakis 2006.
        """
        rng = random.Random(seed)
        keyed = []
        for task in self.replayable(env=env, mode=mode):
            key, p = task.key, self._entries[task.key].last_p
            weight = REPLAY_FLOOR + (1.0 if p is None else 4 * p * (1 - p))
            keyed.append((rng.expovariate(weight), key, task))
        return [task for _, _, task in heapq.nsmallest(n, keyed)]

    def to_bytes(self) -> bytes:
        """The whole archive; equal archives give equal bytes."""
        leaders = {name: text for clusters in self._clusters.values() for name, text in clusters.leaders.items()}
        return encode(_Saved(FORMAT, self.capacity, dict(sorted(leaders.items())), list(self._entries.values())))

    @classmethod
    def from_bytes(cls, data: bytes, *, capacity: int | None = None, retire: Retire | None = None) -> TaskArchive:
        """The inverse of `to_bytes`.

        Args:
          capacity: another bound than the saved one.
          retire: when tasks are retired, which is a setting and not saved; None = the defaults.

        Raises:
          CheckpointError: the bytes are no archive of this format.
        """
        try:
            found = decode(data, _Head).format
            if found == FORMAT:
                saved = decode(data, _Saved)
        except msgspec.MsgspecError as e:
            raise CheckpointError(f"the task archive cannot be read: {e}") from None
        if found != FORMAT:
            raise CheckpointError(
                f"the task archive is of format {found}, this code reads format {FORMAT}: "
                "use the version of selfplay that wrote it"
            )
        archive = cls(capacity or saved.capacity, retire)
        for entry in saved.entries:
            archive._add(entry, saved.leaders[entry.cluster])
            archive._judge(entry)
        archive._evict()
        return archive

    @property
    def _now(self) -> int:
        """The last learner step that was recorded: that of the youngest entry."""
        return next(reversed(self._entries.values())).last_step if self._entries else 0

    def _record(self, group: Group, task: Task) -> None:
        entry = self._entries.get(task.key)
        if entry is None:
            entry = self._entry_of(group, task)
            self._add(entry, task.content)
        else:
            self._rejuvenate(task.key)
        entry.last_step = group.step
        entry.met += 1
        if group.proposal is not None:
            entry.proposed += 1
            self._credit_parents(task)
        judged = group.valid
        entry.unjudged += len(group.attempts) - len(judged)
        if judged:
            solved = sum(a.verdict.status == "ok" for a in judged)
            entry.attempts += len(judged)
            entry.solves += solved
            entry.solver, entry.last_p = judged[-1].policy, solved / len(judged)
        count(entry.tallies, group.attempts, versions=self._retire.versions)
        self._judge(entry)
        self._evict()

    def _entry_of(self, group: Group, task: Task) -> Entry:
        """A first meeting."""
        cluster = self._clusters_of(task).find(task.content)
        return Entry(
            task=task,
            shape=group.shape,
            cluster=cluster or task.key,
            shape_before=self._shapes[task.env, group.shape],
            cluster_before=self._clusters_of(task).size(cluster),
            first_generation=group.generation,
            first_step=group.step,
            last_step=group.step,
            proposer=group.proposal.policy if group.proposal else None,
        )

    def _credit_parents(self, task: Task) -> None:
        """Tell the tasks that the proposer was shown, where they are still held, what it made of them."""
        for parent in dict.fromkeys(task.parents):
            entry = self._entries.get(parent)
            if entry is None or parent == task.key:  # a copy was taught by nothing
                continue
            entry.taught += 1
            if task.key not in entry.children:
                entry.children = [*entry.children, task.key][-CHILDREN:]

    def _judge(self, entry: Entry) -> None:
        found = standing(entry.tallies, self._retire)
        if found == "live":
            self._retired.pop(entry.task.key, None)
        else:
            self._retired[entry.task.key] = found

    def _clusters_of(self, task: Task) -> Clusters:
        return self._clusters.setdefault(task.env, Clusters())

    def _add(self, entry: Entry, leader: str) -> None:
        task = entry.task
        self._entries[task.key] = entry
        self._index.setdefault((task.env, task.mode), {})[task.key] = task
        self._shapes[task.env, entry.shape] += 1
        self._clusters_of(task).join(entry.cluster, leader)

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
            self._clusters_of(entry.task).leave(entry.cluster)
            self._retired.pop(key, None)
            bucket = entry.task.env, entry.shape
            self._shapes[bucket] -= 1
            if not self._shapes[bucket]:
                del self._shapes[bucket]
