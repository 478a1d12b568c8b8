"""What a refiner may do to a step's experience; what it leaves out is left as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from envs.base import Env
from selfplay.config import Run
from selfplay.memory import Memory
from selfplay.packing import Item
from selfplay.records import Group, Trajectory, Unit

Score: TypeAlias = Callable[[Sequence[Trajectory]], list[np.ndarray]]
"""Log-probabilities [n] of trajectories under the reference of update.kl."""


def _no_units(run: Run, units: Sequence[Unit], groups: Sequence[Group]) -> list[Unit]:
    return []


def _same_items(items: Sequence[Item], groups: Sequence[Group], score: Score) -> list[Item]:
    return list(items)


def _same_memory(run: Run, envs: Mapping[str, Env], memory: Memory, groups: Sequence[Group]) -> Memory:
    return memory


@dataclass(frozen=True, kw_only=True)
class Refiner:
    """Three functions that the loop calls, each at its place."""

    follow_ups: Callable[[Run, Sequence[Unit], Sequence[Group]], list[Unit]] = _no_units
    """From the units of a round and their groups to the units of the next round of the same step."""
    items: Callable[[Sequence[Item], Sequence[Group], Score], list[Item]] = _same_items
    """From credited and filtered items to those that the update packs."""
    remember: Callable[[Run, Mapping[str, Env], Memory, Sequence[Group]], Memory] = _same_memory
    """From a memory and a step's groups to the memory of the next version."""
    gold: bool = False
    """Needs an environment that knows its answers."""
