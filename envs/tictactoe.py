"""`tictactoe`: three in a row on a board of nine cells.

Compact: cells are `1` to `9`, row by row, and `a` to `i` where the other seat took them. A seat reads its mark, `x` or
`o`, then the moves: `x5a9` and `oe1i` are the same three. Every character tells whose it is, wherever it stands.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property

from envs.base import OVER, Bot, State
from envs.games import GameEnv, GameState

CELLS = "123456789"
THEIRS = dict(zip(CELLS, "abcdefghi", strict=True))
"""How a seat reads the cells that the other took."""
ROWS = tuple(map(set, ("123", "456", "789", "147", "258", "369", "159", "357")))


def wins(cells: Iterable[str]) -> bool:
    """Whether these cells hold three in a row."""
    return any(map(frozenset(cells).issuperset, ROWS))


@dataclass(frozen=True)
class Board:
    """A position: the cells taken so far, x first."""

    line: str = ""

    @cached_property
    def won(self) -> bool:
        """Whether the last move made three in a row."""
        return wins(self.line[-1::-2])

    def player(self) -> int:
        return OVER if self.won or len(self.line) == 9 else len(self.line) % 2

    @cached_property
    def free(self) -> tuple[str, ...]:
        return tuple([cell for cell in CELLS if cell not in self.line])

    def moves(self) -> tuple[str, ...]:
        return self.free

    def chances(self) -> tuple[tuple[str, float], ...]:
        return ()

    def after(self, move: str) -> Board:
        return Board(self.line + move)

    def returns(self) -> tuple[float, ...]:
        if not self.won:
            return 0.0, 0.0
        return (1.0, -1.0) if len(self.line) % 2 else (-1.0, 1.0)

    def seen(self, seat: int) -> str:
        return "xo"[seat] + "".join(cell if at % 2 == seat else THEIRS[cell] for at, cell in enumerate(self.line))

    def picture(self) -> str:
        """Three lines; a free cell shows its number."""
        marks = "".join("xo"[self.line.index(cell) % 2] if cell in self.line else cell for cell in CELLS)
        return "\n".join(" ".join(marks[at : at + 3]) for at in (0, 3, 6))


class TicTacToe(GameEnv[Board]):
    """Tic-tac-toe; options form, legal, retries and forfeit, as in `envs.games.GameEnv`."""

    name, largest, version = "tictactoe", 1.0, "2"
    summary = "tic-tac-toe; perfect play known, a draw"

    def start(self) -> Board:
        return Board()

    def rules(self, seat: int) -> str:
        return (
            "You play tic-tac-toe. Players x and o take a free cell in turn, x first. Three of your marks in a row, a "
            "column or a diagonal win; a full board without them is a draw.\n"
            f"You are {'xo'[seat]}. Write the number of a free cell in brackets, such as [5]."
        )

    def tell(self, position: Board, seat: int, told: int) -> str:
        news = [f"Your opponent takes {cell}." for cell in position.line[max(told, 1) - 1 :]]
        return "\n".join([*news, "Board:", position.picture()])

    def scripted(self) -> Mapping[str, Bot]:
        return {"perfect": _perfect}


def _perfect(state: State, rng: random.Random) -> str:
    """A move of the largest minimax value, every such move alike."""
    assert isinstance(state, GameState) and isinstance(state.position, Board)
    line = state.position.line
    values = [-minimax(*_sides(line + move)) for move in state.position.moves()]
    largest = max(values)
    return rng.choice([action for action, value in zip(state.actions(), values, strict=True) if value == largest])


def _sides(line: str) -> tuple[frozenset[str], frozenset[str]]:
    """Cells of the player to move, and of the one who moved last."""
    return frozenset(line[-2::-2]), frozenset(line[-1::-2])


@cache
def minimax(mine: frozenset[str], theirs: frozenset[str]) -> int:
    """Value of a board for the player to move: 1 won, 0 drawn, -1 lost, both playing perfectly; 5478 boards."""
    if wins(theirs):
        return -1
    free = [cell for cell in CELLS if cell not in mine and cell not in theirs]
    return max((-minimax(theirs, mine | {cell}) for cell in free), default=0)
