"""Try again what nobody solved, with the answer shown; learn from what comes out right as if it had not been shown.

Source: rationalisation, STaR, Zelikman et al. 2022, arXiv:2203.14465, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from msgspec.structs import replace as replaced

from selfplay.config import Run
from selfplay.packing import Item
from selfplay.records import Group, Unit
from selfplay.refiners.base import Refiner, Score


def follow_ups(run: Run, units: Sequence[Unit], groups: Sequence[Group]) -> list[Unit]:
    """A second round over the tasks that had judged attempts and none right.

    A unit keeps its number of rows, so that no new shape is compiled: tasks come again in order where they fall short.
    """
    out = []
    for unit in units:
        mine = [g for g in groups if g.unit == unit.index and g.round == unit.round]
        failed = [g.task for g in mine if g.task and g.valid and g.solve_rate == 0]
        if unit.round or not failed:
            continue
        tasks = tuple(failed[i % len(failed)] for i in range(unit.rows))
        again = {"kind": "solve", "round": 1, "tasks": tasks, "hint": run.refine.hint}
        out.append(replaced(unit, **again, shown=(), difficulties=(), per_ask=1))
    return out


def items(given: Sequence[Item], groups: Sequence[Group], score: Score) -> list[Item]:
    """Attempts of the second round after the prompt of the first: the answer that was shown is taken out."""
    prompts = {(g.unit, g.task.key): _prompt(g) for g in groups if g.task and g.attempts and not g.round}
    out = []
    for item in given:
        group = groups[item.group]
        if group.round and group.task and item.trajectory.role == "solve":
            item = _after(prompts[group.unit, group.task.key], item)
        out.append(item)
    return out


def _prompt(group: Group) -> np.ndarray:
    first = group.attempts[0]
    return first.ids[: first.turn_starts[0]]


def _after(prompt: np.ndarray, item: Item) -> Item:
    """The item's own tokens after another prompt, with all that was measured of them."""
    old, start, zeros = item.trajectory, item.trajectory.turn_starts[0], np.zeros(len(prompt))
    moved = replaced(
        old,
        ids=np.concatenate([prompt, old.ids[start:]]).astype(np.int32),
        mask=np.concatenate([zeros, old.mask[start:]]).astype(bool),
        behaviour_logprobs=np.concatenate([zeros, old.behaviour_logprobs[start:]]).astype(np.float32),
        turn_starts=(len(prompt),),
    )
    advantages = np.concatenate([zeros, item.advantages[start:]]).astype(np.float32)
    return replace(item, trajectory=moved, advantages=advantages)


RATIONALISE = Refiner(follow_ups=follow_ups, items=items, gold=True)
