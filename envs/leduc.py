"""`leduc`: Leduc hold'em poker, six cards, two rounds of bets.

Both ante 1 and get one of two J, two Q, two K; a third is turned up after the first round. A raise is 2 chips in the
first round and 4 in the second, two raises a round at most. Suits never matter and are not told, which leaves 288
information states of the 936 with suits. Compact: `c` checks or calls, `r` bets or raises, `f` folds; a seat reads its
card, the moves, the card that is turned up, the moves: `KcrcQr`. Source: Southey et al. 2005, Bayes' bluff,
arXiv:1207.1411.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from envs.base import CHANCE, OVER
from envs.games import GameEnv

RANKS = "JQK"
COPIES = 2
RAISES = (2, 4)
"""Chips of a raise in the first and in the second round."""
MOST_RAISES = 2
NAMES = {"J": "jack", "Q": "queen", "K": "king"}


@dataclass(frozen=True)
class Hand:
    """A position: the two cards and, once it is turned up, the third; the moves of both rounds."""

    cards: str = ""
    first: str = ""
    second: str = ""

    @property
    def line(self) -> str:
        """The moves of the round that is played."""
        return self.second if len(self.cards) == 3 else self.first

    @cached_property
    def chips(self) -> tuple[int, int]:
        """What each seat has paid so far; the first seat begins both rounds."""
        paid = [1, 1]
        for moves, size in zip((self.first, self.second), RAISES, strict=True):
            for at, move in enumerate(moves):
                if move != "f":
                    paid[at % 2] = max(paid) + (size if move == "r" else 0)
        return paid[0], paid[1]

    def player(self) -> int:
        line = self.line
        if line.endswith("f"):
            return OVER
        if not self.cards or (line.endswith("c") and len(line) > 1):
            return OVER if len(self.cards) == 3 else CHANCE
        return len(line) % 2

    def moves(self) -> tuple[str, ...]:
        raised = self.line.count("r")
        faces_raise = self.line.endswith("r")
        return ("c", *("r" if raised < MOST_RAISES else ""), *("f" if faces_raise else ""))

    def chances(self) -> tuple[tuple[str, float], ...]:
        left = {rank: COPIES - self.cards.count(rank) for rank in RANKS}
        total = sum(left.values())
        if self.cards:
            return tuple((rank, count / total) for rank, count in left.items() if count)
        return tuple(
            (one + two, left[one] * (left[two] - (one == two)) / (total * (total - 1)))
            for one in RANKS
            for two in RANKS
        )

    def after(self, move: str) -> Hand:
        if self.player() == CHANCE:
            return Hand(self.cards + move, self.first)
        if len(self.cards) == 3:
            return Hand(self.cards, self.first, self.second + move)
        return Hand(self.cards, self.first + move)

    def returns(self) -> tuple[float, ...]:
        if self.line.endswith("f"):
            winner = len(self.line) % 2
        else:
            one, two = (_strength(card, self.cards[2]) for card in self.cards[:2])
            if one == two:
                return 0.0, 0.0
            winner = int(two > one)
        gain = float(self.chips[1 - winner])
        return (gain, -gain) if winner == 0 else (-gain, gain)

    def seen(self, seat: int) -> str:
        return self.cards[seat : seat + 1] + self.first + self.cards[2:] + self.second


def _strength(card: str, turned_up: str) -> int:
    """A pair beats all; else the higher card."""
    return len(RANKS) if card == turned_up else RANKS.index(card)


class Leduc(GameEnv[Hand]):
    """Leduc hold'em; options form, legal, retries and forfeit, as in `envs.games.GameEnv`."""

    name, largest = "leduc", 13.0
    summary = "Leduc hold'em poker: six cards, two rounds of bets"

    def start(self) -> Hand:
        return Hand()

    def word(self, position: Hand, move: str) -> str:
        if position.line.endswith("r"):
            return {"c": "call", "r": "raise", "f": "fold"}[move]
        return {"c": "check", "r": "bet"}[move]

    def rules(self, seat: int) -> str:
        return (
            "You play Leduc hold'em. There are six cards: two J, two Q, two K; K is highest. Both players pay 1 chip "
            "and get one card. After a round of bets a third card is turned up, and a second round follows.\n"
            "A bet or raise is 2 chips in the first round, 4 in the second; two a round at most. A player who faces "
            "one folds, calls or raises; the first player begins both rounds.\n"
            "After a fold the other player wins all chips. At the end a pair with the card that is turned up wins, "
            "else the higher card.\n"
            f"You are the {('first', 'second')[seat]} player. Write your move in brackets, such as [check]."
        )

    def tell(self, position: Hand, seat: int, told: int) -> str:
        turned = len(position.first) + 1
        lines = []
        for at, thing in enumerate(position.seen(seat)[told:], told):
            if at == 0:
                lines.append(f"Your card is the {NAMES[thing]}.")
            elif at == turned:
                lines.append(f"The {NAMES[thing]} is turned up.")
            else:
                lines.append(f"Your opponent {self._verb(position, at)}.")
        return "\n".join(lines)

    def _verb(self, position: Hand, at: int) -> str:
        """What the other player did at a place of `seen`."""
        seen = position.seen(0)
        verbs = {"c": "calls", "r": "raises"} if seen[at - 1] == "r" else {"c": "checks", "r": "bets"}
        return verbs[seen[at]]
