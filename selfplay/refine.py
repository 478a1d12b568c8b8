"""Experience refinement: pay every role, give credit, and only then drop what teaches nothing.

The order is fixed: (1) pay, from all proposals, (2) credit, over the whole step, (3) filter. A dropped attempt still
counts in pay, baselines, archive and metrics. Letters: n tokens of one trajectory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from selfplay.config import RoleConfig, Run
from selfplay.credit import (
    centred,
    critic_advantages,
    kl_penalty,
    pay,
    spread,
    token_rewards,
    turn_ends,
    turn_numbers,
    turn_rewards,
    turn_shares,
)
from selfplay.packing import Item
from selfplay.records import ROLES, Group, Player, Role, Trajectory


class Scorer(Protocol):
    """What refinement asks of the learner's weights, [n] arrays a trajectory."""

    def values(self, trajectories: Sequence[Trajectory]) -> list[np.ndarray]:
        """The critic's value before each policy token."""

    def reference_logprobs(self, trajectories: Sequence[Trajectory]) -> list[np.ndarray]:
        """Log-probabilities (nats) under the reference policy."""


@dataclass(frozen=True, kw_only=True)
class Paid:
    """One trajectory with what it was paid."""

    trajectory: Trajectory
    group: int
    """Index of its group in the step."""
    reward: float
    masked: bool = False
    """Out of credit, loss and baselines: unjudged, held-out, or truncated where that is masked."""


@dataclass(frozen=True, kw_only=True)
class Refined:
    """A step's experience with its credit."""

    groups: tuple[Group, ...]
    paid: tuple[Paid, ...]
    """All trajectories, in unit order, a group's proposal before its attempts."""
    items: tuple[Item, ...]
    """What the update packs, those outside the loss included."""
    advantages: Mapping[int, float]
    """Index into `paid` -> mean advantage over its tokens, of what was not masked."""
    planned: Mapping[Role, int]
    """Sequences that the step set out to sample, by role."""
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    """Moving averages by role and key, for the next step."""


def refine(
    groups: Sequence[Group],
    *,
    run: Run,
    planned: Mapping[Role, int],
    baselines: Mapping[str, Mapping[str, float]],
    scorer: Scorer,
) -> Refined:
    """Turn a step's Groups, in unit order, into training items.

    Args:
      planned: sequences that the step set out to sample, by role.
      baselines: moving averages as of the step's start, by role and key.
      scorer: the learner's critic and reference, asked only where credit or KL needs them.
    """
    paid = [p for index, group in enumerate(groups) for p in _pay_attempts(index, group, run)]
    paid = _with_proposals(groups, paid, run)
    references = _references(paid, run, scorer)
    after: dict[str, dict[str, float]] = {role: dict(kept) for role, kept in baselines.items()}
    credited: dict[int, Item] = {}
    for role in ROLES:
        members = [i for i, p in enumerate(paid) if p.trajectory.role == role and not p.masked]
        items, after[role] = _credit(
            [paid[i] for i in members],
            [groups[paid[i].group] for i in members],
            [references[i] for i in members],
            run.roles[role],
            run,
            after.get(role, {}),
            scorer,
        )
        credited |= dict(zip(members, items, strict=True))
    kept = [_filtered(credited[i], paid[i], run) for i in sorted(credited)]
    means = {i: float(item.advantages[item.trajectory.mask].mean()) for i, item in credited.items()}
    return Refined(
        groups=tuple(groups), paid=tuple(paid), items=tuple(kept), advantages=means, planned=planned, baselines=after
    )


# ---------------------------------------------------------------- pay


def _pay_attempts(index: int, group: Group, run: Run) -> list[Paid]:
    """An attempt is paid its verdict; a truncated one as its role says; an unjudged one is masked, as is a seat that
    is not learnt from."""
    played = bool(group.players)
    unjudged = group.task is not None and not played and len(group.valid) < least_valid(run, len(group.attempts))
    out = []
    for attempt in group.attempts:
        reward = _truncated_pay(attempt, run.roles[attempt.role], attempt.verdict.reward)
        masked = unjudged or attempt.verdict.status == "env_error" or reward is None
        masked = masked or (played and not attempt.trainable)  # a past self's results are no baseline for the newest
        out.append(Paid(trajectory=attempt, group=index, reward=reward or 0.0, masked=masked))
    return out


def _truncated_pay(trajectory: Trajectory, role: RoleConfig, reward: float | None) -> float | None:
    """A completion's reward, or what its role says of one that was cut off by its length; None = masked."""
    if not trajectory.truncated or reward is None or role.truncated == "wrong":
        return reward
    return role.truncated_penalty if role.truncated == "penalty" else None


def least_valid(run: Run, attempts: int) -> int:
    """Fewest judged attempts for a group to count."""
    return run.acquire.min_valid or max(1, attempts // 2)


def _with_proposals(groups: Sequence[Group], attempts: Sequence[Paid], run: Run) -> list[Paid]:
    """Every proposal with its pay, put before its group's attempts."""
    proposing = [i for i, g in enumerate(groups) if g.proposal is not None]
    rewards = dict(zip(proposing, proposal_pay([groups[i] for i in proposing], run), strict=True))
    by_group: dict[int, list[Paid]] = {}
    for p in attempts:
        by_group.setdefault(p.group, []).append(p)
    out: list[Paid] = []
    for i, group in enumerate(groups):
        if group.proposal is not None:
            reward = _truncated_pay(group.proposal, run.roles["propose"], rewards[i])
            out.append(Paid(trajectory=group.proposal, group=i, reward=reward or 0.0, masked=reward is None))
        out += by_group.get(i, [])
    return out


def proposal_pay(groups: Sequence[Group], run: Run) -> list[float | None]:
    """What each proposal of a step earns; None = masked (a held-out hit, or too few judged attempts).

    pay = f(p_hat) - repeat_penalty * copies / proposals - repeat_flat [copies > 1]; a rejected one earns `invalid`.
    The penalty is symmetric: every copy bears it, the first included. R-Zero, arXiv:2508.05004, takes the share of a
    task's cluster from its pay; here a cluster is the same task or the environment's shape.
    """
    config = run.propose
    copies = Counter(_repeats(g, run) for g in groups if g.task is not None)
    out: list[float | None] = []
    for group in groups:
        if group.rejection is not None:
            out.append(None if group.rejection.reason == "held_out" else config.invalid)
        elif group.task is None or len(group.valid) < least_valid(run, len(group.attempts)):
            out.append(None)
        else:
            earned = float(pay(np.array([group.solve_rate]), np.array([len(group.valid)]), config)[0])
            found = copies[_repeats(group, run)]
            repeated = found if found > 1 else 0
            out.append(earned - config.repeat_penalty * repeated / len(groups) - config.repeat_flat * (repeated > 1))
    return out


def _repeats(group: Group, run: Run) -> tuple[str, str]:
    """What the copies of a proposal share."""
    by_shape = run.propose.repeat_by == "shape" and group.shape
    return group.env, group.shape if by_shape or group.task is None else group.task.key


# ---------------------------------------------------------------- credit


def _references(paid: Sequence[Paid], run: Run, scorer: Scorer) -> list[np.ndarray | None]:
    """Reference log-probabilities where a KL term of single tokens needs them."""
    kl = run.update.kl
    if kl.place == "none" or kl.estimator == "full":
        return [None] * len(paid)
    pulled = [i for i, p in enumerate(paid) if p.trajectory.trainable and p.trajectory.role in kl.roles]
    scored = dict(zip(pulled, scorer.reference_logprobs([paid[i].trajectory for i in pulled]), strict=True))
    return [scored.get(i) for i in range(len(paid))]


def _credit(
    paid: Sequence[Paid],
    groups: Sequence[Group],
    references: Sequence[np.ndarray | None],
    role: RoleConfig,
    run: Run,
    baselines: Mapping[str, float],
    scorer: Scorer,
) -> tuple[list[Item], dict[str, float]]:
    """Advantages of one role's trajectories over the whole step; KL in the reward comes first."""
    trajectories = [p.trajectory for p in paid]
    masks = [np.asarray(t.mask, bool) for t in trajectories]
    keys = [credit_key(t, g, role) for t, g in zip(trajectories, groups, strict=True)]
    critic = role.credit.centre == "critic"
    tokens = [
        turn_rewards(p.reward, m, p.trajectory.turn_starts, credit=role.credit)
        if critic
        else token_rewards(p.reward, m)
        for p, m in zip(paid, masks, strict=True)
    ]
    if run.update.kl.place == "reward" and trajectories:
        coef = run.update.kl.coef.get(trajectories[0].role, 0.0)
        for i, (t, mask, reference) in enumerate(zip(trajectories, masks, references, strict=True)):
            if reference is not None:
                tokens[i] = tokens[i] + kl_penalty(t.behaviour_logprobs, reference, mask, coef=coef)
    shared = [
        {"trajectory": t, "group": p.group, "reference_logprobs": r}
        for t, p, r in zip(trajectories, paid, references, strict=True)
    ]
    if critic:
        values = scorer.values(trajectories)
        through = role.credit.turns == "terminal"
        ends = [None if through else turn_ends(m, t.turn_starts) for t, m in zip(trajectories, masks, strict=True)]
        pairs = critic_advantages(tokens, values, masks, keys, credit=role.credit, ends=ends)
        return [
            Item(**s, advantages=a, returns=r, old_values=v)  # type: ignore[arg-type]
            for s, (a, r), v in zip(shared, pairs, values, strict=True)
        ], dict(baselines)
    rewards = np.array([float(r.sum()) for r in tokens])
    lengths = np.array([int(m.sum()) for m in masks])
    advantages, after = centred(rewards, keys, lengths, credit=role.credit, baselines=baselines)
    shares = [
        turn_shares(len(t.turn_starts), credit=role.credit)[turn_numbers(len(t.ids), t.turn_starts)]
        for t in trajectories
    ]
    return [
        Item(**s, advantages=spread(float(a), m, share))  # type: ignore[arg-type]
        for s, a, m, share in zip(shared, advantages, masks, shares, strict=True)
    ], after


def credit_key(trajectory: Trajectory, group: Group, role: RoleConfig) -> tuple[Hashable, ...]:
    """The values of the fields that `credit.key` names; an attempt's task is that of its own group."""
    fields: dict[str, Hashable] = {
        "role": trajectory.role,
        "env": group.env,
        "mode": group.mode,
        "task": f"{group.step}:{group.unit}:{group.row}",
        "parent": trajectory.parent_key,
        "seat": trajectory.seat,
        "opponent": _opponent(trajectory, group),
        "policy": trajectory.policy.policy,
    }
    return tuple(fields[name] for name in role.credit.key)


def _opponent(trajectory: Trajectory, group: Group) -> str:
    """Who else sat there: a bot's name, `self` for the same weights, `past` for older ones; empty outside of games."""
    others = [p for seat, p in enumerate(group.players) if seat != trajectory.seat]
    mine = Player(policy=trajectory.policy.policy, version=trajectory.policy.version)
    return "+".join(p.bot or ("self" if p == mine else "past") for p in others)


# ---------------------------------------------------------------- filter


def _filtered(item: Item, paid: Paid, run: Run) -> Item:
    """Out of the loss: zero advantage (teaches nothing), or not solved, as `update.filter` says."""
    solved = paid.trajectory.verdict.status == "ok"
    teaches = {
        "nonzero_advantage": bool(np.any(item.advantages)),
        "solved_only": solved and bool(np.any(item.advantages)),
        "none": True,
    }[run.update.filter]
    if teaches:
        return item
    return Item(
        trajectory=item.trajectory,
        advantages=item.advantages,
        group=item.group,
        in_loss=False,
        returns=item.returns,
        old_values=item.old_values,
        reference_logprobs=item.reference_logprobs,
    )
