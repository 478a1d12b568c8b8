"""Where trajectories lie in packed rows, so that little is padding and a prompt that several share is computed once.

Attempts at one task begin with the same prompt. Its tokens but the last become a prefix, laid out once in a row, and
every attempt a continuation: the last token of the prompt, which predicts its first own one, and what follows. A
continuation sees its prefix and itself, at the positions that it has alone, so every number is that of the plain form
but for rounding. Prefixes lie first in their row: what a token sees is there, or close to it. What a row has to spare
goes between the others, so that they cross the borders of chunks no more often than they must (`Reach`).

A column reads a token and predicts the next one, so a trajectory's last token, which predicts nothing, has none.

Letters: B rows of T tokens, n tokens of one trajectory, L tokens of a prefix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from math import ceil

import numpy as np

from selfplay.models.attention import CHUNK, Reach
from selfplay.records import ROLES, Trajectory
from selfplay.trie import NONE, bucket

WORTHWHILE = 0.6
"""Share of a row's columns above which a token may as well look at all of them."""


@dataclass(frozen=True)
class Spot:
    """Where a trajectory lies: its tokens from `start` on but the last are read, and those from `start` + 1 on
    predicted, in these columns of this row."""

    row: int
    columns: slice
    start: int
    """L, the tokens before, which lie in the prefix; neither they nor token L are the policy's."""

    def write(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Put the trajectory's values [n] into [B, T], each where its token is predicted."""
        rows[self.row, self.columns] = values[self.start + 1 :]

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The trajectory's values [n] out of [B, T]; 0 up to token `start`."""
        return np.concatenate([np.zeros(self.start + 1, rows.dtype), rows[self.row, self.columns]])


@dataclass(frozen=True)
class Rows:
    """Token ids laid out in rows, and where each trajectory lies."""

    ids: np.ndarray
    """[B, T] int32: tokens read."""
    positions: np.ndarray
    """[B, T] int32: place in its own trajectory."""
    segment_ids: np.ndarray
    """[B, T] int32: 0 = padding, 1.. = the prefixes, continuations and whole trajectories of the row."""
    prefix_ids: np.ndarray
    """[B, T] int32: the segment that a token's own one continues; its own where that begins by itself."""
    targets: np.ndarray
    """[B, T] int32: the token after the one read; 0 on padding."""
    roles: np.ndarray
    """[B, T] int32: index into ROLES, -1 on padding."""
    reg_mask: np.ndarray
    """[B, T] bool: targets that the policy chose."""
    spots: tuple[Spot, ...]
    """Of each trajectory, in the order given."""
    kept: np.ndarray | None = None
    """[B, T, K] int32: the candidates of targets that were drawn among some alone; None = there are no such tokens."""


@dataclass
class Family:
    """Trajectories of a row, by index, side by side after one prefix of `shared` tokens; one alone needs none."""

    shared: int
    members: list[int]


@dataclass(frozen=True)
class Plan:
    """Families by row and column."""

    rows: tuple[tuple[Family, ...], ...]
    width: int


def plan_rows(trajectories: Sequence[Trajectory], width: int, *, share: bool) -> Plan:
    """First fit, the longest first: each goes to the first row that has its prompt and room for the rest, or else to
    the first with room for all of it.

    Args:
      width: T, no smaller than the `columns` of the longest trajectory.
      share: lay a prompt out once a row.
    """
    rows: list[dict[object, Family]] = []
    taken: list[int] = []
    having: dict[object, list[int]] = {}
    for i in sorted(range(len(trajectories)), key=lambda i: -len(trajectories[i].ids)):
        length, shared = columns(trajectories[i]), _shared(trajectories[i]) if share else 0
        prompt = (trajectories[i].role, trajectories[i].ids[: shared + 1].tobytes()) if shared else i
        beside = (r for r in having.setdefault(prompt, []) if taken[r] + length - shared <= width)
        alone = (r for r in range(len(rows)) if taken[r] + length <= width)
        row = next(chain(beside, alone), len(rows))
        if row == len(rows):
            rows.append({})
            taken.append(0)
        if prompt in rows[row]:
            rows[row][prompt].members.append(i)
            taken[row] += length - shared
        else:
            rows[row][prompt] = Family(shared, [i])
            having[prompt].append(row)
            taken[row] += length
    return Plan(tuple(tuple(families.values()) for families in rows), width)


def columns(trajectory: Trajectory) -> int:
    """Columns that a trajectory takes by itself: all tokens but the last are read."""
    return max(len(trajectory.ids) - 1, 0)


def row_width(longest: int, row_tokens: int) -> int:
    """T: `row_tokens`, or the next multiple of 64 that holds so many columns."""
    return row_tokens if longest <= row_tokens else 64 * ceil(longest / 64)


def row_bucket(rows: int, multiple: int) -> int:
    """B: few distinct shapes mean few compilations: 8, then multiples of 16 up to 64, then of 32; and of `multiple`."""
    size = 8 if rows <= 8 else 16 * ceil(rows / 16) if rows <= 64 else 32 * ceil(rows / 32)
    return multiple * ceil(size / multiple)


def reach_of(segment_ids: np.ndarray, prefix_ids: np.ndarray) -> Reach | None:
    """How far the tokens of laid out rows [B, T] see, to the next size; None where that would save too little.

    Few distinct sizes mean few compilations: columns come in 1, 2, 3, 4, 6, 8, 12, 16 .. chunks.
    """
    width = segment_ids.shape[1]
    if width % CHUNK:
        return None
    prefix = before = 0
    for own, continued in zip(segment_ids, prefix_ids, strict=True):
        starts = np.flatnonzero(np.diff(own, prepend=-1))  # of each segment, padding included
        ends = np.append(starts[1:], width)
        shared = np.isin(own[starts], continued[continued != own])
        prefix = int(ends[shared].max(initial=prefix))
        last = (ends - 1) // CHUNK * CHUNK  # where the chunk of a segment's last token begins
        before = int((last - starts)[~shared & (own[starts] > 0)].max(initial=before))
    reach = Reach(_chunks(prefix) * CHUNK, _chunks(before) * CHUNK)
    return reach if sum(reach) + CHUNK <= WORTHWHILE * width else None


def may_have_reach(width: int) -> bool:
    """Whether rows so wide can be worth a reach; where not, no batch decides which program scores them."""
    return width % CHUNK == 0 and 2 * CHUNK <= WORTHWHILE * width


def _chunks(columns: int) -> int:
    """Chunks that hold so many columns, of the sizes 0, 1, 2, 3, 4, 6, 8, 12, 16, 24 .."""
    least = ceil(columns / CHUNK)
    power = 1 << max(least - 1, 0).bit_length()
    return 0 if least == 0 else 3 * power // 4 if power >= 4 and least <= 3 * power // 4 else power


def lay_out(trajectories: Sequence[Trajectory], plan: Plan, rows: int) -> Rows:
    """The trajectories written into [rows, T] arrays as planned."""
    shape = rows, plan.width
    ids, positions, segment_ids, prefix_ids, targets = (np.zeros(shape, np.int32) for _ in range(5))
    role_ids, reg_mask = np.full(shape, -1, np.int32), np.zeros(shape, bool)
    kept = _no_candidates(trajectories, shape)
    spots: dict[int, Spot] = {}
    for row, families in enumerate(plan.rows):
        column = segment = 0
        stretches = list(_stretches(families, trajectories))
        spare = plan.width - sum(end - first for first, end, _, _ in stretches)
        for first, end, index, prefix in stretches:
            trajectory, segment = trajectories[index], segment + 1
            read, predicted = slice(first, end), slice(first + 1, end + 1)
            if prefix is not None and (gap := _gap(column, end - first)) <= spare:
                column, spare = column + gap, spare - gap
            at = row, slice(column, column + end - first)
            ids[at], targets[at] = trajectory.ids[read], trajectory.ids[predicted]
            positions[at], reg_mask[at] = np.arange(first, end), trajectory.mask[predicted]
            segment_ids[at], prefix_ids[at] = segment, prefix or segment
            role_ids[at] = ROLES.index(trajectory.role)
            column += end - first
            if prefix is not None:
                spots[index] = Spot(*at, first)
            if kept is not None and prefix is not None and trajectory.kept is not None:
                kept[at][trajectory.mask[predicted], : trajectory.kept.shape[1]] = trajectory.kept
    order = tuple(spots[i] for i in range(len(trajectories)))
    return Rows(ids, positions, segment_ids, prefix_ids, targets, role_ids, reg_mask, order, kept)


def _no_candidates(trajectories: Sequence[Trajectory], shape: tuple[int, int]) -> np.ndarray | None:
    """[B, T, K] with room for the candidates of every token; None where all were drawn from the whole vocabulary."""
    widths = [t.kept.shape[1] for t in trajectories if t.kept is not None]
    return np.full((*shape, bucket(max(widths))), NONE, np.int32) if widths else None


def _stretches(
    families: Sequence[Family], trajectories: Sequence[Trajectory]
) -> Iterator[tuple[int, int, int, int | None]]:
    """Segments of a row in order, all prefixes first: from which token to before which, whose trajectory, and which
    segment its prefix is, 0 = none; None = it is a prefix itself."""
    alone = [family for family in families if len(family.members) == 1 or not family.shared]
    others = [family for family in families if len(family.members) > 1 and family.shared]
    yield from ((0, family.shared, family.members[0], None) for family in others)
    for segment, family in enumerate(others, start=1):
        yield from ((family.shared, columns(trajectories[i]), i, segment) for i in family.members)
    yield from ((0, columns(trajectories[i]), i, 0) for family in alone for i in family.members)


def _gap(column: int, length: int) -> int:
    """Columns to leave so that what follows lies in as few chunks as it can, and sees less far back."""
    last = max(length - 1, 0)
    crosses_more = (column % CHUNK + last) // CHUNK > last // CHUNK
    return -column % CHUNK if crosses_more else 0


def _shared(trajectory: Trajectory) -> int:
    """Tokens that others may share: all before the one that predicts the policy's first."""
    return max(int(np.argmax(trajectory.mask)) - 1, 0)
