"""Where trajectories lie in packed rows, so that little is padding and a prompt that several share is computed once.

Attempts at one task begin with the same prompt. Its tokens but the last become a prefix, laid out once in a row, and
every attempt a continuation: the last token of the prompt, which predicts its first own one, and what follows. A
continuation sees its prefix and itself, at the positions that it has alone, so every number is that of the plain form
but for rounding.

Letters: B rows of T tokens, n tokens of one trajectory, L tokens of a prefix.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from selfplay.records import ROLES, Trajectory


@dataclass(frozen=True)
class Spot:
    """Where a trajectory lies: its tokens from `start` on, in these columns of this row."""

    row: int
    columns: slice
    start: int
    """L, the tokens before, which lie in the prefix; none of them is the policy's."""

    def write(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Put the trajectory's values [n] into [B, T]."""
        rows[self.row, self.columns] = values[self.start :]

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The trajectory's values [n] out of [B, T]; 0 before `start`."""
        return np.concatenate([np.zeros(self.start, rows.dtype), rows[self.row, self.columns]])


@dataclass(frozen=True)
class Rows:
    """Token ids laid out in rows, and where each trajectory lies."""

    ids: np.ndarray
    """[B, T] int32."""
    positions: np.ndarray
    """[B, T] int32: place in its own trajectory."""
    segment_ids: np.ndarray
    """[B, T] int32: 0 = padding, 1.. = the prefixes, continuations and whole trajectories of the row."""
    prefix_ids: np.ndarray
    """[B, T] int32: the segment that a token's own one continues; its own where that begins by itself."""
    roles: np.ndarray
    """[B, T] int32: index into ROLES, -1 on padding."""
    reg_mask: np.ndarray
    """[B, T] bool: tokens that the policy chose."""
    spots: tuple[Spot, ...]
    """Of each trajectory, in the order given."""


@dataclass(frozen=True)
class Family:
    """Trajectories, by index, that lie side by side after one prefix of `shared` tokens."""

    shared: int
    members: tuple[int, ...]
    size: int
    """Tokens of all of it."""


@dataclass(frozen=True)
class Plan:
    """Families with the row and column where each begins."""

    families: tuple[Family, ...]
    places: tuple[tuple[int, int], ...]
    rows: int
    width: int


def plan_rows(trajectories: Sequence[Trajectory], width: int, *, share: bool) -> Plan:
    """Which trajectories lie where in rows of `width` tokens; with `share`, prompts are laid out once a row.

    Args:
      width: no smaller than the longest trajectory.
    """
    families = [
        family for members in _same_prompt(trajectories, share) for family in _cut(trajectories, members, width)
    ]
    places, rows = first_fit([family.size for family in families], width)
    return Plan(tuple(families), tuple(places), rows, width)


def row_width(longest: int, row_tokens: int) -> int:
    """T: `row_tokens`, or the next multiple of 64 that holds the longest trajectory."""
    return row_tokens if longest <= row_tokens else 64 * ceil(longest / 64)


def row_bucket(rows: int, multiple: int) -> int:
    """B: few distinct shapes mean few compilations: 8, then multiples of 16 up to 64, then of 32; and of `multiple`."""
    size = 8 if rows <= 8 else 16 * ceil(rows / 16) if rows <= 64 else 32 * ceil(rows / 32)
    return multiple * ceil(size / multiple)


def first_fit(lengths: Sequence[int], width: int) -> tuple[list[tuple[int, int]], int]:
    """First-fit decreasing: (row, start) of each length, in the order given, and the number of rows used."""
    places: list[tuple[int, int]] = [(0, 0)] * len(lengths)
    used: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        row = next((r for r, taken in enumerate(used) if taken + lengths[i] <= width), len(used))
        if row == len(used):
            used.append(0)
        places[i] = (row, used[row])
        used[row] += lengths[i]
    return places, len(used)


def lay_out(trajectories: Sequence[Trajectory], plan: Plan, rows: int) -> Rows:
    """The trajectories written into [rows, T] arrays as planned."""
    ids, positions, segment_ids, prefix_ids = (np.zeros((rows, plan.width), np.int32) for _ in range(4))
    role_ids = np.full((rows, plan.width), -1, np.int32)
    reg_mask = np.zeros((rows, plan.width), bool)
    segments: Counter[int] = Counter()
    spots: dict[int, Spot] = {}

    def write(trajectory: Trajectory, tokens: slice, row: int, column: int, prefix: int = 0) -> slice:
        """A stretch of a trajectory as a segment of its own."""
        segments[row] += 1
        stretch = trajectory.ids[tokens]
        columns = slice(column, column + len(stretch))
        at = row, columns
        ids[at], reg_mask[at] = stretch, trajectory.mask[tokens]
        positions[at] = np.arange(len(trajectory.ids))[tokens]
        segment_ids[at] = segments[row]
        prefix_ids[at] = prefix or segments[row]
        role_ids[at] = ROLES.index(trajectory.role)
        return columns

    for family, (row, column) in zip(plan.families, plan.places, strict=True):
        prefix, shared = 0, family.shared
        if shared:
            column = write(trajectories[family.members[0]], slice(0, shared), row, column).stop
            prefix = segments[row]
        for index in family.members:
            columns = write(trajectories[index], slice(shared, None), row, column, prefix)
            spots[index] = Spot(row, columns, shared)
            column = columns.stop
    return Rows(
        ids, positions, segment_ids, prefix_ids, role_ids, reg_mask, tuple(spots[i] for i in range(len(trajectories)))
    )


def _same_prompt(trajectories: Sequence[Trajectory], share: bool) -> list[list[int]]:
    """Indices of those that read the same tokens, for the same role, before the policy's first one."""
    alike: dict[object, list[int]] = {}
    for i, trajectory in enumerate(trajectories):
        prompt = trajectory.ids[: _shared(trajectory) + 1]
        alike.setdefault((trajectory.role, prompt.tobytes()) if share else i, []).append(i)
    return list(alike.values())


def _shared(trajectory: Trajectory) -> int:
    """Tokens that others may share: all before the one that predicts the policy's first."""
    return max(int(np.argmax(trajectory.mask)) - 1, 0)


def _cut(trajectories: Sequence[Trajectory], members: Sequence[int], width: int) -> list[Family]:
    """As few families of these as fit a row each, the longest first; one alone needs no prefix."""
    shared = _shared(trajectories[members[0]])
    own = {i: len(trajectories[i].ids) - shared for i in members}
    places, rows = first_fit([own[i] for i in members], width - shared)
    families = []
    for row in range(rows):
        here = [i for i, place in sorted(zip(members, places, strict=True), key=lambda x: x[1]) if place[0] == row]
        alone = len(here) == 1
        families.append(Family(0 if alone else shared, tuple(here), shared + sum(own[i] for i in here)))
    return families
