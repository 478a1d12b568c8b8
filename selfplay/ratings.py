"""What a payoff matrix says: Elo ratings with intervals, cycles, and what the first seat is worth.

Letters: N players.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from statistics import NormalDist

import numpy as np

from selfplay.payoffs import Payoffs
from selfplay.standing import Z, wilson

ELO = 400 / log(10)
"""Elo points of one unit of log-odds: 400 points are odds of 10 to 1."""

VIRTUAL = 0.5
"""Points that each side of a pair that met is given before its games (one drawn game): ratings stay finite where one
side won them all."""

CONFIDENCE = 0.95


def elo(scores: np.ndarray, *, anchor: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Elo ratings by maximum likelihood, and the half width of their 95 % intervals.

    P(i beats j) = 1 / (1 + 10^((R_j - R_i) / 400)), a draw counted as half a win of each; every pair that met has one
    virtual draw. R = ELO * r, r the maximum of sum_ij s_ij log sigma(r_i - r_j), which is concave: Newton's method with
    halved steps. The interval is 1.96 standard errors of R_i - R_anchor from the observed Fisher information, the
    weighted Laplacian n_ij p_ij (1 - p_ij) without the anchor's row and column. Draws make it wider than it need be.
    Source: Bradley and Terry 1952, Biometrika 39; Elo 1978; existence of the maximum: Ford 1957; draws as half wins and
    their variance: Glickman 1999, Applied Statistics 48.

    Args:
      scores: points [N, N] of row i against column j (wins + draws / 2); the diagonal is ignored.
      anchor: the player whose rating is 0.

    Returns:
      Ratings [N] and half widths [N]; NaN for players that no chain of games joins to the anchor.
    """
    points = np.array(scores, float)
    np.fill_diagonal(points, 0)
    met = points + points.T > 0
    points = points + VIRTUAL * met
    rating, half = np.full((2, len(points)), np.nan)
    joined = np.flatnonzero(_reached(met, anchor))
    rating[anchor] = half[anchor] = 0.0
    others = joined[joined != anchor]
    if not others.size:
        return rating, half
    order = np.concatenate([[anchor], others])
    r, variance = _maximum(points[np.ix_(order, order)])
    rating[others], half[others] = ELO * r[1:], ELO * Z * np.sqrt(variance[1:])
    return rating, half


def _maximum(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds ratings [N] with the first one 0, and their variances [N]."""
    games, r = points + points.T, np.zeros(len(points))

    def likelihood(r: np.ndarray) -> float:
        return -float((points * np.logaddexp(0, r[None, :] - r[:, None])).sum())

    while True:
        p = 1 / (1 + np.exp(r[None, :] - r[:, None]))
        weight = games * p * (1 - p)
        information = (np.diag(weight.sum(1)) - weight)[1:, 1:]
        gradient = (points - games * p).sum(1)[1:]
        step = np.concatenate([[0.0], np.linalg.solve(information, gradient)])
        scale = 1.0
        while likelihood(r + scale * step) < likelihood(r) and scale > 1e-6:
            scale /= 2
        r = r + scale * step
        if np.abs(scale * step).max() < 1e-9:
            return r, np.concatenate([[0.0], np.diag(np.linalg.inv(information))])


def _reached(met: np.ndarray, start: int) -> np.ndarray:
    """Which players [N] a chain of games joins to one of them."""
    reached: np.ndarray = np.arange(len(met)) == start
    while (more := reached | met[reached].any(0)).sum() > reached.sum():
        reached = more
    return reached


def cycles(payoffs: Payoffs, generations: Sequence[int]) -> int:
    """Older generations that the newest one surely loses to, though it surely beats a younger one than them.

    Progress that goes round in circles wins over g - k and loses to g - 2k. Sure is: the Wilson interval of the share
    of points lies on one side of one half, at 95 % over all the generations asked (Bonferroni). A false cycle needs a
    false win and a false loss at once.

    Args:
      generations: those that are kept, the newest last.
    """
    *older, newest = generations
    if not older:
        return 0
    z = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / (2 * len(older)))
    spans = [wilson(*payoffs.score(str(newest), str(g)), z) for g in older]
    beaten = [g for g, (low, _) in zip(older, spans, strict=True) if low > 0.5]
    lost = [g for g, (_, high) in zip(older, spans, strict=True) if high < 0.5]
    return sum(any(g > old for g in beaten) for old in lost)


def first_seat_gap(payoffs: Payoffs, player: str) -> float:
    """Mean reward of the first seat minus that of the second where a player meets itself; NaN if it never did."""
    mirror = payoffs.between(player, player)
    return 2 * mirror.payoff / mirror.games if mirror.games else float("nan")
