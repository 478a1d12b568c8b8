"""From trajectories with credit to packed rows: which minibatch, which row, and every weight.

All denominators are computed here, once, over the whole optimizer minibatch, so that `sum(weights * term)` is the
loss whatever the rows, micro-batches and devices are. Attempts at one task are often the same to the last token: such a
set is laid out once, and weighs as much as all of it.
Letters: B rows of T tokens, n tokens of one trajectory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from selfplay.config import RoleConfig, Update
from selfplay.layout import Plan, Rows, lay_out, plan_rows, row_bucket, row_width
from selfplay.losses import PAIRWISE, regularised
from selfplay.pairs import longest_block, plan_pairs
from selfplay.records import Batch, Role, Trajectory

EQUAL = 1e-5
"""Nats, and units of credit: how far numbers of equal trajectories may lie apart. A sampler is held to as much."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One trajectory with its credit, ready for packing."""

    trajectory: Trajectory
    advantages: np.ndarray
    """[n] float32, 0 off the policy's tokens."""
    group: int
    """Items of a group share a minibatch."""
    in_loss: bool = True
    """False: only KL, entropy and the critic see it."""
    pair_id: int = 0
    """Items that a pairwise loss compares share one, above 0; a pair lies within a group."""
    returns: np.ndarray | None = None
    """[n] what the critic regresses on; None = the critic skips it."""
    old_values: np.ndarray | None = None
    """[n] the critic's values as of the batch's start."""
    reference_logprobs: np.ndarray | None = None
    """[n] nats; needed when a KL estimator of single tokens is on."""
    copies: int = 1
    """Equal items of its group that this one stands for."""


def minibatches(
    items: Sequence[Item],
    *,
    policy: str,
    planned: Mapping[Role, int],
    roles: Mapping[str, RoleConfig],
    update: Update,
    seed: int,
    multiple: int = 1,
    max_tokens: Mapping[Role, int] | None = None,
) -> list[Batch]:
    """A learner step's data as `epochs` x `minibatches` Batches of one common shape, one optimizer step each.

    Whole groups go, in a fresh seeded order every epoch, to the minibatch that has the fewest tokens so far.
    A minibatch that gets nothing is all padding with weights 0: the updater skips it.

    Args:
      items: of any policy; only trainable trajectories of `policy` are packed, and of those outside the loss only
        what KL, entropy or the critic need.
      planned: sequences that the whole step set out to sample, by role, whatever became of them.
      seed: of the shuffle, from `streams.python_seed(seed, Stream.MINIBATCH, generation, step)`.
      multiple: rows come in multiples of this (`Updater.row_multiple`).
      max_tokens: longest completion by role, for denominator = planned_sequences_x_max_tokens.
    """
    kept = [
        item
        for item in items
        if item.trajectory.trainable
        and item.trajectory.mask.any()
        and item.trajectory.policy.policy == policy
        and (item.in_loss or regularised(update) or item.returns is not None)
    ]
    _check(kept)
    longest = longest_block([item.trajectory for item in kept], [item.pair_id for item in kept])
    width = row_width(longest, update.row_tokens)
    order = np.random.default_rng(seed)
    parts = [part for _ in range(update.epochs) for part in _split(kept, update.minibatches, order)]
    merged = [distinct(part) for part in parts]
    plans = [_plan(part, width, update) for part in merged]
    count = row_bucket(max(len(plan.rows) for plan in plans), multiple)
    batches = []
    for part, single, plan in zip(parts, merged, plans, strict=True):
        rows = lay_out([item.trajectory for item in single], plan, count)
        batches.append(_batch(single, rows, policy, update, _shares(part, planned, roles, update, max_tokens)))
    return batches


def distinct(items: Sequence[Item]) -> list[Item]:
    """Equal trajectories of a group as one item with so many `copies`, in the order of their firsts.

    Equal are tokens, mask and candidates, and to EQUAL all numbers, of which the first's are kept. Every term of a loss
    is the same for each, so one of them weighed as all gives the gradient of all. What a pairwise loss compares stays.
    """
    firsts: list[Item] = []
    copies: list[int] = []
    places: dict[object, list[int]] = {}
    for item in items:
        alike = places.setdefault(_text(item), [])
        place = next((i for i in alike if _near(firsts[i], item)), None)
        if place is None:
            alike.append(len(firsts))
            firsts.append(item)
            copies.append(item.copies)
        else:
            copies[place] += item.copies
    return [replace(item, copies=count) for item, count in zip(firsts, copies, strict=True)]


def _text(item: Item) -> object:
    """What equal items have in common to the last bit; one of a pair has it with none."""
    trajectory = item.trajectory
    arrays = trajectory.ids, trajectory.mask, trajectory.kept
    alone = id(item) if item.pair_id else 0
    return alone, item.group, item.in_loss, trajectory.role, *(None if a is None else a.tobytes() for a in arrays)


def _near(a: Item, b: Item) -> bool:
    """Whether the numbers of two items of the same text differ by EQUAL at most."""
    for name in ("advantages", "returns", "old_values", "reference_logprobs"):
        x, y = getattr(a, name), getattr(b, name)
        if (x is None) != (y is None) or (x is not None and not (np.abs(x - y) <= EQUAL).all()):
            return False
    apart = np.abs(a.trajectory.behaviour_logprobs - b.trajectory.behaviour_logprobs)
    return bool((apart <= EQUAL).all())


def _plan(items: Sequence[Item], width: int, update: Update) -> Plan:
    trajectories = [item.trajectory for item in items]
    if update.loss in PAIRWISE:
        return plan_pairs(trajectories, [item.pair_id for item in items], width)
    return plan_rows(trajectories, width, share=update.shared_prefix)


def _check(items: Sequence[Item]) -> None:
    groups: dict[int, int] = {}
    for item in items:
        if item.trajectory.mask[:1].any():
            raise ValueError("a trajectory's first token has nothing before it: the policy cannot have chosen it")
        if item.pair_id and groups.setdefault(item.pair_id, item.group) != item.group:
            raise ValueError(f"pair {item.pair_id} spans groups {groups[item.pair_id]} and {item.group}")


def _split(items: Sequence[Item], parts: int, order: np.random.Generator) -> list[list[Item]]:
    """Whole groups, in a random order, each to the part with the fewest tokens so far."""
    groups: dict[int, list[Item]] = {}
    for item in items:
        groups.setdefault(item.group, []).append(item)
    members = list(groups.values())
    chosen: list[list[Item]] = [[] for _ in range(parts)]
    tokens = [0] * parts
    for g in order.permutation(len(members)):
        lightest = tokens.index(min(tokens))
        chosen[lightest] += members[g]
        tokens[lightest] += sum(len(item.trajectory.ids) for item in members[g])
    return chosen


def _batch(items: Sequence[Item], rows: Rows, policy: str, update: Update, shares: Mapping[Role, float]) -> Batch:
    shape = rows.ids.shape
    mask, valued = (np.zeros(shape, bool) for _ in range(2))
    counts = np.zeros(shape, np.int32)
    floats = {
        name: np.zeros(shape, np.float32)
        for name in ("behaviour_logprobs", "reference_logprobs", "advantages", "returns", "old_values", "weights")
    }
    pair_ids = np.zeros(shape, np.int32)
    of_pair = Counter[int]()
    for item in items:
        of_pair[item.pair_id] += int(item.trajectory.mask.sum())
    for item, spot in zip(items, rows.spots, strict=True):
        chosen = np.asarray(item.trajectory.mask, bool)
        spot.write(mask, chosen & item.in_loss)
        spot.write(counts, chosen * item.copies)
        spot.write(pair_ids, np.full(len(chosen), item.pair_id))
        spot.write(floats["behaviour_logprobs"], item.trajectory.behaviour_logprobs)
        if item.in_loss:
            spot.write(floats["advantages"], np.where(chosen, item.advantages, 0))
            once = of_pair[item.pair_id] if item.pair_id else 1  # a pair counts as one sequence, not as its tokens
            spot.write(floats["weights"], chosen * (item.copies * shares[item.trajectory.role] / once))
        if item.reference_logprobs is not None:
            spot.write(floats["reference_logprobs"], item.reference_logprobs)
        if item.returns is not None:
            spot.write(valued, chosen)
            spot.write(floats["returns"], item.returns)
        if item.old_values is not None:
            spot.write(floats["old_values"], item.old_values)
    return Batch(
        policy=policy,
        ids=rows.ids,
        positions=rows.positions,
        segment_ids=rows.segment_ids,
        prefix_ids=rows.prefix_ids,
        targets=rows.targets,
        roles=rows.roles,
        mask=mask,
        reg_mask=rows.reg_mask,
        counts=counts,
        reg_weights=_mean_weights(rows.reg_mask * counts),
        value_weights=_mean_weights(valued * counts),
        pair_ids=pair_ids,
        loss=update.loss,
        kept=rows.kept,
        **floats,
    )


def _mean_weights(counts: np.ndarray) -> np.ndarray:
    return counts.astype(np.float32) / np.float32(max(int(counts.sum()), 1))


def _shares(
    items: Sequence[Item],
    planned: Mapping[Role, int],
    roles: Mapping[str, RoleConfig],
    update: Update,
    max_tokens: Mapping[Role, int] | None,
) -> dict[Role, float]:
    """Weight of one token of the loss, by role: loss_weight / denominator, over this optimizer minibatch.

    active_* count what is in the loss here; planned_* are the step's plan shared evenly among the minibatches.
    """
    active = [item.trajectory for item in items if item.in_loss]
    shares: dict[Role, float] = {}
    for role in {t.role for t in active}:
        if update.denominator == "active_tokens":
            total: float = sum(int(np.sum(t.mask)) for t in active if t.role == role)
        elif update.denominator == "active_sequences":
            total = sum(t.role == role for t in active)
        else:
            total = planned.get(role, 0) / update.minibatches
            if update.denominator == "planned_sequences_x_max_tokens":
                total *= (max_tokens or {}).get(role, 0)
        if total <= 0:
            raise ValueError(f"role {role} is in the loss, but its {update.denominator} number {total}")
        shares[role] = roles[role].loss_weight / total
    return shares
