"""`kuhn`: Kuhn poker, three cards and one chip to bet.

Both ante 1 and get one of J < Q < K. Compact: `p` passes (check or fold), `b` bets (or calls); a seat reads its card,
then the moves: `Kpb`. Source: Kuhn 1950, A simplified two-person poker.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from envs.base import CHANCE, OVER, Bot, EnvUserError, State
from envs.games import GameEnv, GameState

RANKS = "JQK"
NAMES = {"J": "jack", "Q": "queen", "K": "king"}
ENDS = ("pp", "pbp", "pbb", "bp", "bb")


@dataclass(frozen=True)
class Hand:
    """A position: the two cards, none before the deal, and the moves so far."""

    cards: str = ""
    line: str = ""

    def player(self) -> int:
        if not self.cards:
            return CHANCE
        return OVER if self.line in ENDS else len(self.line) % 2

    def moves(self) -> tuple[str, ...]:
        return ("p", "b")

    def chances(self) -> tuple[tuple[str, float], ...]:
        return tuple((first + second, 1 / 6) for first, second in itertools.permutations(RANKS, 2))

    def after(self, move: str) -> Hand:
        return Hand(self.cards, self.line + move) if self.cards else Hand(move)

    def returns(self) -> tuple[float, ...]:
        if self.line in ("bp", "pbp"):
            gain = 1 if self.line == "bp" else -1
        else:
            stake = 2 if self.line.endswith("bb") else 1
            gain = stake if RANKS.index(self.cards[0]) > RANKS.index(self.cards[1]) else -stake
        return float(gain), float(-gain)

    def seen(self, seat: int) -> str:
        return self.cards[seat : seat + 1] + self.line


class Kuhn(GameEnv[Hand]):
    """Kuhn poker.

    Args:
      alpha: how often the equilibrium bot bets the jack as first player, 0 to 1/3.
      others: form, legal, retries and forfeit, as in `envs.games.GameEnv`.
    """

    name, largest = "kuhn", 2.0
    summary = "Kuhn poker: three cards, one bet; equilibrium known, value -1/18 for the first seat"

    def __init__(self, *, alpha: float = 1 / 3, **others: Any) -> None:
        if type(alpha) not in (int, float) or not 0 <= alpha <= 1 / 3:
            raise EnvUserError(f"kuhn: option alpha must be a number from 0 to 1/3, got {alpha!r}")
        super().__init__(**others)
        self.alpha = float(alpha)

    def start(self) -> Hand:
        return Hand()

    def word(self, position: Hand, move: str) -> str:
        faces_bet = position.line.endswith("b")
        return {"p": "fold", "b": "call"}[move] if faces_bet else {"p": "check", "b": "bet"}[move]

    def rules(self, seat: int) -> str:
        return (
            "You play Kuhn poker. The cards are J, Q and K; K is highest. Both players pay 1 chip and get one card.\n"
            "The first player checks or bets 1 chip. After a check the second may check or bet; after a bet the other "
            "player folds or calls.\nAfter a fold the other player wins, else the higher card wins all chips.\n"
            f"You are the {('first', 'second')[seat]} player. Write your move in brackets, such as [check]."
        )

    def tell(self, position: Hand, seat: int, told: int) -> str:
        lines = [] if told else [f"Your card is the {NAMES[position.cards[seat]]}."]
        news = {"p": "Your opponent checks.", "b": "Your opponent bets."}
        return "\n".join([*lines, *(news[move] for move in position.seen(seat)[max(told, 1) :])])

    def scripted(self) -> Mapping[str, Bot]:
        return {"equilibrium": self._equilibrium}

    def _equilibrium(self, state: State, rng: random.Random) -> str:
        assert isinstance(state, GameState) and isinstance(state.position, Hand)
        passes, bets = state.actions()
        return bets if rng.random() < bet_probability(self.alpha)[state.position.seen(state.player())] else passes


def bet_probability(alpha: float) -> dict[str, float]:
    """The equilibrium in which the first player bets a jack with probability alpha: seen -> probability of `b`.

    Its value is -1/18 for every 0 <= alpha <= 1/3. Source: Kuhn 1950; Hoehn et al. 2005, Effective short-term opponent
    exploitation in simplified poker, section 2.
    """
    first = {"J": alpha, "Q": 0.0, "K": 3 * alpha, "Jpb": 0.0, "Qpb": alpha + 1 / 3, "Kpb": 1.0}
    second = {"Jp": 1 / 3, "Qp": 0.0, "Kp": 1.0, "Jb": 0.0, "Qb": 1 / 3, "Kb": 1.0}
    return first | second
