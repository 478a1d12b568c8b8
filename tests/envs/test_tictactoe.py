"""Tic-tac-toe: lines of three by hand, and perfect play."""

from __future__ import annotations

import random

import pytest

from envs.tictactoe import Board, TicTacToe, minimax


@pytest.mark.parametrize(
    ("line", "returns"),
    [("14253", (1.0, -1.0)), ("192847", (-1.0, 1.0)), ("325189674", (1.0, -1.0)), ("745913682", (0.0, 0.0))],
)
def test_returns(line: str, returns: tuple[float, float]) -> None:
    board = Board(line)
    assert board.player() == -2 and board.returns() == returns
    assert all(Board(line[:n]).player() == n % 2 for n in range(len(line)))


def test_a_seat_reads_whose_each_cell_is() -> None:
    assert Board("519").seen(0) == "x5a9" and Board("519").seen(1) == "oe1i"
    assert TicTacToe(form="words").tell(Board("519"), 1, 3) == "Your opponent takes 9.\nBoard:\no 2 3\n4 x 6\n7 8 x"


def test_the_board_is_drawn() -> None:
    assert Board("519").picture() == "o 2 3\n4 x 6\n7 8 x"


def test_a_perfect_game_is_a_draw_and_every_board_is_known() -> None:
    assert minimax(frozenset(), frozenset()) == 0
    assert minimax(frozenset("5"), frozenset("19")) == 0  # the middle against two corners: a side, or lost
    assert minimax(frozenset("1"), frozenset("2")) == 1  # a corner against the side next to it
    assert minimax.cache_info().currsize >= 4000  # of the 5478 boards that play can reach


@pytest.mark.parametrize("seat", [0, 1])
def test_perfect_play_never_loses(seat: int) -> None:
    env, rng = TicTacToe(), random.Random(seat)
    perfect, anyone = env.bots()["perfect"], env.bots()["random"]
    results = []
    for _ in range(300):
        state = env.root()
        while (player := state.player()) >= 0:
            state = state.after((perfect if player == seat else anyone)(state, rng))
        results.append(state.returns()[seat])
    assert min(results) >= 0 and sum(results) > 200


def test_perfect_play_blocks() -> None:
    env = TicTacToe(form="words")
    state = env.root()
    for action in ("[1]", "[5]", "[2]"):
        state = state.after(action)
    assert {env.bots()["perfect"](state, random.Random(i)) for i in range(20)} == {"[3]"}
    state = state.after("[3]")
    assert {env.bots()["perfect"](state, random.Random(i)) for i in range(20)} == {"[7]"}
