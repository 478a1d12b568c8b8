"""`nim`: take any number from one of some piles; who takes the last one wins.

Compact: one letter a move, `a` for one of the first pile, `b` for two, ... then the second pile; a seat reads the
piles, then the moves: `345be`. Source: Bouton 1901, Nim, a game with a complete mathematical theory.
"""

from __future__ import annotations

import random
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate
from operator import xor
from typing import Any

from envs.base import OVER, Bot, EnvUserError, State
from envs.games import GameEnv, GameState

LETTERS = string.ascii_letters


@dataclass(frozen=True)
class Piles:
    """A position: the piles at the start and now, and the moves so far."""

    start: tuple[int, ...]
    left: tuple[int, ...]
    line: str = ""

    def player(self) -> int:
        return len(self.line) % 2 if any(self.left) else OVER

    def moves(self) -> tuple[str, ...]:
        firsts = accumulate(self.start, initial=0)
        return tuple(
            LETTERS[first + taken] for first, left in zip(firsts, self.left, strict=False) for taken in range(left)
        )

    def chances(self) -> tuple[tuple[str, float], ...]:
        return ()

    def after(self, move: str) -> Piles:
        pile, taken = self.meaning(move)
        left = (*self.left[:pile], self.left[pile] - taken, *self.left[pile + 1 :])
        return Piles(self.start, left, self.line + move)

    def meaning(self, move: str) -> tuple[int, int]:
        """The pile, counted from 0, and how many are taken."""
        at = LETTERS.index(move)
        for pile, size in enumerate(self.start):
            if at < size:
                return pile, at + 1
            at -= size
        raise ValueError(f"{move!r} is no move of the piles {self.start}")

    def returns(self) -> tuple[float, ...]:
        return (1.0, -1.0) if len(self.line) % 2 else (-1.0, 1.0)

    def seen(self, seat: int) -> str:
        return "".join(map(str, self.start)) + self.line


class Nim(GameEnv[Piles]):
    """Nim.

    Args:
      piles: how many each pile has, 1 to 9; 52 together at most.
      others: form, legal, retries and forfeit, as in `envs.games.GameEnv`.
    """

    name, largest = "nim", 1.0
    summary = "nim: who takes the last one wins; perfect play known"

    def __init__(self, *, piles: Sequence[int] = (3, 4, 5), **others: Any) -> None:
        sizes = tuple(piles) if isinstance(piles, (list, tuple)) else ()
        if not sizes or any(type(n) is not int or not 1 <= n <= 9 for n in sizes) or sum(sizes) > len(LETTERS):
            raise EnvUserError(
                f"nim: option piles must be whole numbers from 1 to 9, {len(LETTERS)} together at most, got {piles!r}"
            )
        super().__init__(**others)
        self.piles = sizes

    def start(self) -> Piles:
        return Piles(self.piles, self.piles)

    def word(self, position: Piles, move: str) -> str:
        pile, taken = position.meaning(move)
        return f"{pile + 1} {taken}"

    def rules(self, seat: int) -> str:
        return (
            f"You play nim with {len(self.piles)} piles. Players take any number, at least one, from one pile in turn; "
            "who takes the last one of all wins.\n"
            f"You are the {('first', 'second')[seat]} player. Write the pile and how many you take in brackets: [1 2] "
            "takes two from pile 1."
        )

    def tell(self, position: Piles, seat: int, told: int) -> str:
        lines = []
        for move in position.line[max(told - len(position.start), 0) :]:
            pile, taken = position.meaning(move)
            lines.append(f"Your opponent takes {taken} from pile {pile + 1}.")
        piles = ", ".join(f"pile {pile} has {left}" for pile, left in enumerate(position.left, 1))
        return "\n".join([*lines, f"Now {piles}."])

    def scripted(self) -> Mapping[str, Bot]:
        return {"perfect": _perfect}


def _perfect(state: State, rng: random.Random) -> str:
    """A move after which the piles' exclusive or is 0, every such move alike; without one, any move."""
    assert isinstance(state, GameState) and isinstance(state.position, Piles)
    position = state.position
    wins = [
        action
        for action, move in zip(state.actions(), position.moves(), strict=True)
        if reduce(xor, position.after(move).left) == 0
    ]
    return rng.choice(wins or list(state.actions()))
