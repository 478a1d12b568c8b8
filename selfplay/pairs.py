"""Where pairs of trajectories lie in packed rows: both in one row, so that no split into micro-batches parts them."""

from __future__ import annotations

from collections.abc import Sequence

from selfplay.layout import Family, Plan, columns
from selfplay.records import Trajectory


def blocks(pair_ids: Sequence[int]) -> list[list[int]]:
    """Indices that must share a row: those of a pair, and each that is in none by itself."""
    found: dict[object, list[int]] = {}
    for i, pair in enumerate(pair_ids):
        found.setdefault(pair or ("alone", i), []).append(i)
    return list(found.values())


def longest_block(trajectories: Sequence[Trajectory], pair_ids: Sequence[int]) -> int:
    """Columns of the longest block; 1 if there is none."""
    return max((sum(columns(trajectories[i]) for i in block) for block in blocks(pair_ids)), default=1)


def plan_pairs(trajectories: Sequence[Trajectory], pair_ids: Sequence[int], width: int) -> Plan:
    """First fit of whole blocks, the longest first; no prompt is shared."""
    found = [(sum(columns(trajectories[i]) for i in block), block) for block in blocks(pair_ids)]
    rows: list[list[Family]] = []
    taken: list[int] = []
    for wide, block in sorted(found, key=lambda b: -b[0]):
        row = next((r for r in range(len(rows)) if taken[r] + wide <= width), len(rows))
        if row == len(rows):
            rows.append([])
            taken.append(0)
        rows[row] += [Family(0, [i]) for i in block]
        taken[row] += wide
    return Plan(tuple(map(tuple, rows)), width)
