"""The line files of a run folder (one JSON object a line), and cutting them back to a restored step."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from envs.base import Status, Task
from selfplay.errors import UserError
from selfplay.records import Finish, Role

METRICS_FILE, SAMPLES_FILE, TASKS_FILE = "metrics.jsonl", "samples.jsonl", "tasks.jsonl"
LINE_FILES = (METRICS_FILE, SAMPLES_FILE, TASKS_FILE)

Kind = Literal["step", "generation"]


class TaskLine(msgspec.Struct, frozen=True, kw_only=True):
    """One admitted task of a learner step, as tasks.jsonl keeps it and the yoked control replays it."""

    step: int
    unit: int
    row: int
    solve_rate: float | None
    """Over its valid attempts; None if there were none."""
    task: Task


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One transcript, as samples.jsonl keeps it: what a policy was shown, wrote, and got."""

    step: int
    generation: int
    unit: int
    row: int
    role: Role
    env: str
    task_key: str = ""
    """Of the task that was answered, or that the proposal became; empty for a rejected one."""
    difficulty: int | None = None
    prompt: str
    text: str
    finish: tuple[Finish, ...] = ()
    status: Status
    verdict_reward: float
    """What the verifier gave: reward of an attempt, 1 or 0 for an admitted or rejected proposal."""
    reward: float
    """What the role was paid."""
    advantage: float | None = None
    """None where it was masked."""


class _Step(msgspec.Struct):
    """Just enough of a line to tell whether it outlives a cut."""

    step: int


class LineFile:
    """Append-only file of JSON lines; each line reaches the operating system whole, so kill -9 loses none."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def append(self, record: Any) -> None:
        """Write one object."""
        self.append_all([record])

    def append_all(self, records: list[Any]) -> None:
        """Write some objects in one go."""
        self._file.write(b"".join(msgspec.json.encode(r) + b"\n" for r in records))

    def sync(self) -> None:
        """Bring it to the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def metric_line(kind: Kind, step: int, generation: int, tokens: int, values: Mapping[str, float]) -> dict[str, Any]:
    """The object of metrics.jsonl: keys sorted, numbers plain, NaN and infinities null."""
    numbers = {name: float(v) if math.isfinite(v) else None for name, v in values.items()}
    head = {"kind": kind, "step": step, "generation": generation, "tokens": tokens}
    return dict(sorted({**numbers, **head}.items()))


T = TypeVar("T")


def _lines(path: Path, kind: type[T]) -> Iterator[tuple[bytes, T]]:
    """Each whole line and its record. A torn last line (the writer was killed) ends the file without a word.

    Raises:
      UserError: a damaged line that is not the last.
    """
    with path.open("rb") as file:
        torn: tuple[int, str] | None = None
        for number, line in enumerate(file, 1):
            if torn is not None:
                raise UserError(f"{path} line {torn[0]} is damaged: {torn[1]}")
            if not line.endswith(b"\n"):
                return
            try:
                record = msgspec.json.decode(line, type=kind)
            except msgspec.DecodeError as error:
                torn = (number, str(error))
                continue
            yield line, record


def cut(folder: Path, step: int) -> None:
    """Drop every line beyond a restored step, and a torn last one, from the line files of a run.

    Each file is rewritten beside itself and renamed into place, so a kill in between loses nothing.

    Args:
      folder: the run folder; files that are not there are left out.
      step: the restored learner step; -1 drops everything.
    """
    for path in (folder / name for name in LINE_FILES if (folder / name).exists()):
        new = path.with_suffix(".cut")
        with new.open("wb") as file:
            file.writelines(line for line, record in _lines(path, _Step) if record.step <= step)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)


def read_metrics(folder: Path, kind: Kind) -> list[dict[str, Any]]:
    """The objects of metrics.jsonl of one kind, in order; null becomes NaN."""
    path = folder / METRICS_FILE
    if not path.exists():
        return []
    records = (record for _, record in _lines(path, dict[str, Any]))
    return [{k: math.nan if v is None else v for k, v in r.items()} for r in records if r.get("kind") == kind]


def read_tasks(folder: Path) -> Iterator[TaskLine]:
    """The admitted tasks of a run in the order in which they were learnt from.

    Raises:
      UserError: the folder has no tasks.jsonl, or a line of it is damaged.
    """
    path = folder / TASKS_FILE
    if not path.exists():
        raise UserError(f"{folder} has no {TASKS_FILE}: not a run whose tasks can be replayed")
    for _, record in _lines(path, TaskLine):
        yield record
