"""The curves and the picture of a run's games: win, draw and loss by seat, Elo, cycles, the payoff matrix."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

import numpy as np

from selfplay.metrics.pictures import heat_map
from selfplay.payoffs import Payoffs, seats
from selfplay.ratings import cycles, elo, first_seat_gap


def game_curves(payoffs: Payoffs, generations: Sequence[int], bots: Sequence[str], *, env: str) -> dict[str, float]:
    """`game/<env>/...` of the newest generation; the same names every time, NaN where nothing was played.

    Against every bot, the base (0), the generation kept before it (previous) and all kept ones together (past), however
    many they are; who beat whom one by one is in the picture.

    Args:
      generations: those that are kept, oldest first, the newest last.
      bots: the environment's scripted players.
    """
    *past, newest = generations
    player = str(newest)
    rating, half = _elo(payoffs, generations, bots)
    values = {
        "elo": rating,
        "elo_low": rating - half,
        "elo_high": rating + half,
        "cycles": float(cycles(payoffs, generations)),
        "first_seat_gap": first_seat_gap(payoffs, player),
    }
    opponents = {
        **{bot: [bot] for bot in bots},
        "0": ["0"] if past else [],
        "previous": [str(past[-1])] if past else [],
        "past": [str(g) for g in past],
    }
    for name, others in opponents.items():
        for seat, r in seats(payoffs, player, others):
            shares = {"win": r.wins, "draw": r.draws, "loss": r.losses, "payoff": r.payoff}
            values |= {f"vs_{name}/{seat}_{what}": n / r.games if r.games else nan for what, n in shares.items()}
    return {f"game/{env}/{name}": value for name, value in values.items()}


def _elo(payoffs: Payoffs, generations: Sequence[int], bots: Sequence[str]) -> tuple[float, float]:
    """The newest generation's Elo and the half width of its interval; the oldest one kept (the base) is 0."""
    players = [*map(str, generations), *bots]
    rating, half = elo(payoffs.scores(players))
    newest = len(generations) - 1
    return float(rating[newest]), float(half[newest])


def payoff_picture(payoffs: Payoffs, generations: Sequence[int], bots: Sequence[str], *, env: str) -> np.ndarray:
    """Share of points of the kept generations (rows, the newest on top) against each other and the bots (columns).

    Returns:
      [H, W, 3] uint8; grey = never met.
    """
    rows = [str(g) for g in reversed(generations)]
    columns = [*map(str, generations), *bots]
    return heat_map(payoffs.rates(rows, columns), rows, columns, title=f"{env}: share of points, row against column")
