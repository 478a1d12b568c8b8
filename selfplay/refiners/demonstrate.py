"""Pair each attempt with the environment's own answer: the policy is to prefer the second over its former self.

Source: SPIN, Chen et al. 2024, arXiv:2401.01335.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from msgspec.structs import replace as replaced

from selfplay.packing import Item
from selfplay.records import Group, Trajectory
from selfplay.refiners.base import Refiner, Score


def items(given: Sequence[Item], groups: Sequence[Group], score: Score) -> list[Item]:
    """A pair for every attempt at a task with a demonstration, and nothing else.

    Advantages are the signs of the loss's margin: +1 at the demonstration's tokens, -1 at the attempt's. Under the
    opponent a demonstration's log-probabilities are the reference's, an attempt's are those that it was sampled with.
    """
    shown: dict[int, Trajectory] = {
        i: g.demonstration for i, g in enumerate(groups) if g.demonstration is not None and g.demonstration.trainable
    }
    scores = dict(zip(shown, score(list(shown.values())) if shown else [], strict=True))
    out: list[Item] = []
    for item in given:
        if item.trajectory.role != "solve" or item.group not in shown or not item.trajectory.mask.any():
            continue
        pair = len(out) // 2 + 1
        demonstration = replaced(shown[item.group], behaviour_logprobs=scores[item.group])
        out.append(Item(trajectory=demonstration, advantages=_signs(demonstration, 1), group=item.group, pair_id=pair))
        out.append(replace(item, advantages=_signs(item.trajectory, -1), in_loss=True, pair_id=pair))
    return out


def _signs(trajectory: Trajectory, sign: int) -> np.ndarray:
    return np.where(trajectory.mask, np.float32(sign), np.float32(0))


DEMONSTRATE = Refiner(items=items, gold=True)
