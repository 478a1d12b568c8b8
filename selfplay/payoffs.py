"""Who beat whom from which seat: the payoff matrix of one environment, as counts.

A player is named by a label: a past generation by its number, a scripted bot by its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from selfplay.records import SEATS


class Results(msgspec.Struct, kw_only=True):
    """Games of one player in the first seat against another in the second, as the first one sees them."""

    wins: int = 0
    draws: int = 0
    losses: int = 0
    payoff: float = 0.0
    """Sum of the first seat's rewards: half of first minus second where both are known."""

    @property
    def games(self) -> int:
        return self.wins + self.draws + self.losses

    def add(self, payoff: float) -> None:
        """One more game, won with a positive payoff, drawn with none."""
        self.wins += payoff > 0
        self.draws += payoff == 0
        self.losses += payoff < 0
        self.payoff += payoff


class Payoffs(msgspec.Struct):
    """The results of one environment, by the label of the first seat and that of the second."""

    table: dict[str, dict[str, Results]] = {}

    def add(self, first: str, second: str, payoff: float) -> None:
        """Take in a game; `payoff` is the first seat's."""
        self.table.setdefault(first, {}).setdefault(second, Results()).add(payoff)

    def between(self, first: str, second: str) -> Results:
        """The games of two players in these seats."""
        return self.table.get(first, {}).get(second) or Results()

    def forget(self, player: str) -> None:
        """Leave out all games of a player."""
        self.table.pop(player, None)
        for row in self.table.values():
            row.pop(player, None)

    def score(self, player: str, other: str) -> tuple[float, int]:
        """Points of a player against another over both seats (a win 1, a draw 1/2), and their games."""
        ahead, behind = self.between(player, other), self.between(other, player)
        points = ahead.wins + behind.losses + (ahead.draws + behind.draws) / 2
        return points, ahead.games + behind.games

    def scores(self, players: Sequence[str]) -> np.ndarray:
        """Points [N, N] of every player (row) against every other (column); 0 on the diagonal."""
        points = [[0.0 if a == b else self.score(a, b)[0] for b in players] for a in players]
        return np.asarray(points, float).reshape(len(players), len(players))

    def rates(self, rows: Sequence[str], columns: Sequence[str]) -> np.ndarray:
        """Share of points [R, C] of the rows' players against the columns'; NaN where they never met, or are one."""

        def rate(a: str, b: str) -> float:
            points, games = self.score(a, b)
            return points / games if games and a != b else np.nan

        return np.asarray([[rate(a, b) for b in columns] for a in rows], float).reshape(len(rows), len(columns))


def seats(payoffs: Payoffs, player: str, others: Sequence[str]) -> Iterator[tuple[str, Results]]:
    """The games of a player against some others, seat by seat, each as that player sees them."""
    for seat in SEATS:
        total = Results()
        for other in others:
            r = payoffs.between(player, other) if seat == "first" else payoffs.between(other, player)
            ahead = seat == "first"
            total.wins += r.wins if ahead else r.losses
            total.losses += r.losses if ahead else r.wins
            total.draws += r.draws
            total.payoff += r.payoff if ahead else -r.payoff
        yield seat, total
