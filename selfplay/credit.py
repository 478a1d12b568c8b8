"""Who is paid what, and how rewards become advantages: plain NumPy over a whole learner step.

Every estimator is A = (r - centre[key]) / scale[key]; docs/algorithms.md shows which settings are REINFORCE++,
TRR++, GRPO, Dr.GRPO, RLOO, hierarchical GRPO, RAE and PPO.
Letters: N trajectories of one role, in unit order; n tokens of one trajectory; G attempts of a task.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from math import comb
from typing import TypeAlias

import numpy as np

from selfplay.config import Credit, Propose

Vector: TypeAlias = np.ndarray
"""[N] or [n] float64 (float32 where a Batch will hold it)."""

FINE_FIELDS = ("task", "parent")
"""Key fields that name a sibling group; what is left of a key without them names its batch."""


# ---------------------------------------------------------------- proposer pay


def learnability(p: Vector, n: Vector, propose: Propose) -> Vector:
    """4 p (1 - p), highest at p = 1/2; `unbiased` scales by n / (n - 1).

    E[p_hat (1 - p_hat)] = (1 - 1/n) p (1 - p) over n attempts, so the scaled form has mean 4 p (1 - p).
    Source: variance of the outcome as learnability, arXiv:2408.15099.
    """
    correction = n / np.maximum(n - 1, 1) if propose.unbiased else 1.0
    return np.asarray(4 * p * (1 - p) * correction)


def one_minus_p(p: Vector, n: Vector, propose: Propose) -> Vector:
    """1 - p: harder pays more. Source: Absolute Zero, arXiv:2505.03335."""
    return 1 - p


def tent(p: Vector, n: Vector, propose: Propose) -> Vector:
    """2 min(p, 1 - p) = 1 - 2 |p - 1/2|. Source: R-Zero, arXiv:2508.05004."""
    return np.asarray(2 * np.minimum(p, 1 - p))


def gauss(p: Vector, n: Vector, propose: Propose) -> Vector:
    """exp(-(p (1 - p) - 1/4)^2 / (2 * 0.01)): peaks at the largest variance. Source: SPICE, arXiv:2510.24684."""
    return np.asarray(np.exp(-((p * (1 - p) - 0.25) ** 2) / (2 * 0.01)))


def in_band(p: Vector, n: Vector, propose: Propose) -> Vector:
    """1 where low <= p <= high of `propose.band`, else 0. Source: the filter of R-Zero, arXiv:2508.05004."""
    low, high = propose.band
    return ((p >= low) & (p <= high)).astype(np.float64)


def admitted(p: Vector, n: Vector, propose: Propose) -> Vector:
    """1 for any admitted task: validity alone is paid."""
    return np.ones_like(p)


PAYS: dict[str, Callable[[Vector, Vector, Propose], Vector]] = {
    "learnability": learnability,
    "one_minus_p": one_minus_p,
    "tent": tent,
    "gauss": gauss,
    "in_band": in_band,
    "none": admitted,
}


def pay(p_hat: Vector, n: Vector, propose: Propose) -> Vector:
    """What the proposer of each admitted task earns, before any penalty for repeats.

    pay = pay_scale * f(p_hat), but exactly `pay_at_zero` where nothing was solved and `pay_at_one` where all was
    (neither is scaled); pay = none ignores p altogether.

    Args:
      p_hat: [N] share of solved attempts.
      n: [N] valid attempts behind each share, 1 or more.

    Raises:
      ValueError: where no attempt was judged: such a proposal is masked, not paid.
    """
    p = np.asarray(p_hat, np.float64)
    count = np.asarray(n, np.float64)
    if p.size and not (np.all(count >= 1) and np.all((p >= 0) & (p <= 1))):
        raise ValueError(f"pay needs n >= 1 judged attempts and 0 <= p <= 1, got p = {p_hat}, n = {n}")
    paid = propose.pay_scale * PAYS[propose.pay](p, count, propose)
    if propose.pay == "none":
        return paid
    return np.where(p == 0, propose.pay_at_zero, np.where(p == 1, propose.pay_at_one, paid))


def expected_pay(p: float, n: int, propose: Propose) -> float:
    """E[pay | p, n]: the mean pay of a task that each of n independent attempts solves with probability p."""
    k = np.arange(n + 1)
    chance = np.array([comb(n, int(i)) for i in k]) * p**k * (1 - p) ** (n - k)
    return float(chance @ pay(k / n, np.full(n + 1, n), propose))


# ---------------------------------------------------------------- advantages


def centred(
    rewards: Vector,
    keys: Sequence[tuple[Hashable, ...]],
    lengths: Vector,
    *,
    credit: Credit,
    baselines: Mapping[str, float],
) -> tuple[Vector, dict[str, float]]:
    """Advantages of all trajectories of one role in a step: A_i = (r_i - centre_i) / scale_i.

    group_* looks at the trajectories that share the whole key; batch_* at those that share the key without task
    and parent (so key = task with scale = batch_std divides by one number a step). A key none of whose members
    differ gives exactly 0, as does leave_one_out or a standard deviation with too few members.

    Args:
      rewards: [N] in the environment's or the pay's units, in unit order.
      keys: [N] values of the fields `credit.key`, in that order.
      lengths: [N] trained tokens of each, the weights of weighting = token.
      baselines: this role's moving averages by key, as of the step's start; only centre = ema reads them.

    Returns:
      [N] advantages, and the baselines for the next step (a new dict).
    """
    r = np.asarray(rewards, np.float64)
    if not len(r) == len(keys) == len(lengths):
        raise ValueError(f"rewards, keys and lengths differ in length: {len(r)}, {len(keys)}, {len(lengths)}")
    if not np.isfinite(r).all():
        raise ValueError(f"a reward is not finite: {rewards}")
    if credit.centre == "critic":
        raise ValueError("centre = critic needs values a token: use critic_advantages")
    weights = np.asarray(lengths, np.float64) if credit.weighting == "token" else np.ones(len(r))
    after = dict(baselines)
    if credit.centre == "ema":
        centre = _moving(r, keys, credit, after)
    else:
        centre = _centres(r, keys, weights, credit)
    return _divide(r - centre, r, keys, weights, credit), after


def _centres(r: Vector, keys: Sequence[tuple[Hashable, ...]], weights: Vector, credit: Credit) -> Vector:
    centre = np.zeros(len(r))
    if credit.centre == "none":
        return centre
    for members in _members(keys, credit, batch=credit.centre == "batch_mean"):
        w, x = weights[members], r[members]
        if credit.centre == "leave_one_out" and len(x) > 1 and x.min() < x.max():
            centre[members] = ((w * x).sum() - w * x) / (w.sum() - w)
        else:
            centre[members] = _moments(x, w, 0)[0]
    return centre


def _moving(r: Vector, keys: Sequence[tuple[Hashable, ...]], credit: Credit, baselines: dict[str, float]) -> Vector:
    """b[key] before each trajectory, then b <- decay b + (1 - decay) r, in unit order, from 0.

    Source: role-conditioned advantage estimation, SPIRAL, arXiv:2506.24119.
    """
    centre = np.zeros(len(r))
    for i, key in enumerate(keys):
        name = ema_key(key, credit)
        centre[i] = baselines.get(name, 0.0)
        baselines[name] = credit.ema_decay * centre[i] + (1 - credit.ema_decay) * float(r[i])
    return centre


def ema_key(key: tuple[Hashable, ...], credit: Credit) -> str:
    """The name under which a moving average is kept and saved: "env=chain|seat=0"."""
    return "|".join(f"{field}={value}" for field, value in zip(credit.key, key, strict=True))


def _divide(
    advantages: Vector, spread_of: Vector, keys: Sequence[tuple[Hashable, ...]], weights: Vector, credit: Credit
) -> Vector:
    """Advantages over (standard deviation + eps) of `spread_of` within each key; 0 where it is 0."""
    if credit.scale == "one":
        return advantages
    scaled = np.zeros_like(advantages)
    for members in _members(keys, credit, batch=credit.scale == "batch_std"):
        std = _moments(spread_of[members], weights[members], credit.ddof)[1]
        if std > 0:
            scaled[members] = advantages[members] / (std + credit.eps)
    return scaled


def _members(keys: Sequence[tuple[Hashable, ...]], credit: Credit, *, batch: bool) -> list[np.ndarray]:
    """Indices of the trajectories of each group (whole key) or batch (key without task and parent)."""
    found: dict[tuple[Hashable, ...], list[int]] = {}
    for i, key in enumerate(keys):
        if not isinstance(key, tuple) or len(key) != len(credit.key):
            raise ValueError(f"a key must hold one value for each of {credit.key}, got {key!r}")
        if batch:
            key = tuple(v for field, v in zip(credit.key, key, strict=True) if field not in FINE_FIELDS)
        found.setdefault(key, []).append(i)
    return [np.array(members) for members in found.values()]


def _moments(x: Vector, weights: Vector, ddof: int) -> tuple[float, float]:
    """Weighted mean and standard deviation sqrt(sum w (x - mean)^2 / (sum w - ddof)); exact where all x are equal."""
    total = float(weights.sum())
    if x.min() == x.max() or total <= 0:
        return float(x[0]), 0.0
    mean = float((weights * x).sum() / total)
    if total <= ddof:
        return mean, 0.0
    return mean, float(np.sqrt((weights * (x - mean) ** 2).sum() / (total - ddof)))


def spread(advantage: float, mask: np.ndarray, shares: Vector | float = 1.0) -> Vector:
    """[n] float32: the advantage of a trajectory at each of its policy tokens, times its turn's share, 0 elsewhere."""
    return np.where(mask, np.float32(advantage) * np.asarray(shares, np.float32), np.float32(0.0))


def turn_shares(turns: int, *, credit: Credit) -> Vector:
    """[turns] what each turn of a trajectory gets of its advantage or reward.

    broadcast: 1; discounted: gamma^(turns to go), the last one 1; terminal: 0, the last one 1. With gamma = 1 and a
    reward at a game's end, broadcast is REINFORCE's return from every turn on.
    Source: copied to every turn, SPIRAL, arXiv:2506.24119; later turns weigh more, SPAG, arXiv:2404.10642.
    """
    to_go = np.arange(turns)[::-1]
    if credit.turns == "broadcast":
        return np.ones(turns)
    return np.asarray(credit.gamma**to_go if credit.turns == "discounted" else to_go == 0, np.float64)


def turn_numbers(length: int, starts: Sequence[int]) -> np.ndarray:
    """[n] int: which turn each token belongs to; those before the first turn count as its own."""
    return np.maximum(np.searchsorted(np.asarray(starts), np.arange(length), side="right") - 1, 0)


# ---------------------------------------------------------------- token rewards and a critic


def token_rewards(reward: float, mask: np.ndarray) -> Vector:
    """[n]: the reward of a trajectory at its last policy token, 0 elsewhere."""
    chosen = np.flatnonzero(mask)
    if not len(chosen):
        raise ValueError("a trajectory without a policy token cannot carry a reward")
    rewards = np.zeros(len(mask))
    rewards[chosen[-1]] = reward
    return rewards


def turn_rewards(reward: float, mask: np.ndarray, starts: Sequence[int], *, credit: Credit) -> Vector:
    """[n]: a critic's rewards: each turn's share of a trajectory's, at the last policy token of the turn."""
    turns = turn_numbers(len(mask), starts)
    return np.where(turn_ends(mask, starts), reward * turn_shares(len(starts), credit=credit)[turns], 0.0)


def turn_ends(mask: np.ndarray, starts: Sequence[int]) -> np.ndarray:
    """[n] bool: the last policy token of every turn."""
    ends, chosen = np.zeros(len(mask), bool), np.flatnonzero(mask)
    turn = turn_numbers(len(mask), starts)[chosen]
    ends[chosen[:-1][turn[1:] > turn[:-1]]] = True
    ends[chosen[-1:]] = True
    return ends


def kl_penalty(logprobs: Vector, reference_logprobs: Vector, mask: np.ndarray, *, coef: float) -> Vector:
    """[n]: -coef * k1 a policy token, k1 = log pi(x) - log ref(x), to be added to the rewards.

    Its sum over a trajectory has mean -coef * KL(pi || ref) of whole trajectories, and REINFORCE on it follows
    that KL's gradient. Source: InstructGPT, arXiv:2203.02155; estimators, arXiv:2506.09477.
    """
    return np.where(mask, -coef * (np.asarray(logprobs, np.float64) - reference_logprobs), 0.0)


def gae(
    rewards: Vector,
    values: Vector,
    mask: np.ndarray,
    *,
    gamma: float,
    gae_lambda: float,
    ends: np.ndarray | None = None,
) -> tuple[Vector, Vector]:
    """Generalised advantage estimates over the policy's own tokens, whatever stands between them.

    With t running over the tokens that the policy chose, V_t the value before token t, and V = 0 after the last:
    delta_t = r_t + gamma V_{t+1} - V_t;  A_t = delta_t + gamma lambda A_{t+1};  return_t = A_t + V_t.
    Source: Schulman et al. 2015, arXiv:1506.02438.

    Args:
      rewards: [n], 0 wherever the policy did not choose the token.
      values: [n] critic's estimate before each policy token; ignored elsewhere.
      mask: [n] True = a token that the policy chose.
      ends: [n] True = a policy token that looks no further: V = 0 after it. The last one always does.

    Returns:
      [n] advantages and [n] returns, both 0 off the policy's tokens. With lambda = 1 a return is the discounted
      sum of the rewards from there on, whatever the values are.
    """
    mask = np.asarray(mask, bool)
    if np.any(np.asarray(rewards)[~mask]):
        raise ValueError("a reward stands on a token that the policy did not choose")
    chosen = np.flatnonzero(mask)
    advantages, returns = np.zeros(len(mask)), np.zeros(len(mask))
    next_value = next_advantage = 0.0
    for t in chosen[::-1]:
        if ends is not None and ends[t]:
            next_value = next_advantage = 0.0
        delta = rewards[t] + gamma * next_value - values[t]
        next_advantage = delta + gamma * gae_lambda * next_advantage
        next_value = values[t]
        advantages[t] = next_advantage
        returns[t] = next_advantage + values[t]
    return advantages, returns


def critic_advantages(
    rewards: Sequence[Vector],
    values: Sequence[Vector],
    masks: Sequence[np.ndarray],
    keys: Sequence[tuple[Hashable, ...]],
    *,
    credit: Credit,
    ends: Sequence[np.ndarray | None] = (),
) -> list[tuple[Vector, Vector]]:
    """GAE of every trajectory of one role in a step, then the scale of `credit` over all their tokens.

    The advantages are divided by their standard deviation within each key, not centred again: the critic is the
    centre. weighting = sequence gives each trajectory the same total weight in that deviation.

    Args:
      ends: of each trajectory, see `gae`; nothing = each is seen through to its end.

    Returns:
      [N] pairs of float32 [n]: advantages, and returns in the units of the rewards.
    """
    pairs = [
        gae(r, v, m, gamma=credit.gamma, gae_lambda=credit.gae_lambda, ends=e)
        for r, v, m, e in zip(rewards, values, masks, ends or [None] * len(masks), strict=True)
    ]
    if credit.scale != "one" and pairs:
        flat = np.concatenate([a[np.asarray(m, bool)] for (a, _), m in zip(pairs, masks, strict=True)])
        counts = [int(np.sum(m)) for m in masks]
        owner = np.repeat(np.arange(len(pairs)), counts)
        weights = np.ones(len(flat)) if credit.weighting == "token" else 1 / np.array(counts, np.float64)[owner]
        flat = _divide(flat, flat, [keys[int(i)] for i in owner], weights, credit)
        for i, ((a, _), m) in enumerate(zip(pairs, masks, strict=True)):
            a[np.asarray(m, bool)] = flat[owner == i]
    return [(a.astype(np.float32), ret.astype(np.float32)) for a, ret in pairs]
