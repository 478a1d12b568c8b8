"""Nim: moves and letters by hand, and play by the nim-sum."""

from __future__ import annotations

import random

import pytest

from envs.nim import Nim, Piles


def test_letters() -> None:
    piles = Piles((3, 4, 5), (3, 4, 5))
    assert piles.moves() == tuple("abcdefghijkl")
    assert [piles.meaning(move) for move in "acdgl"] == [(0, 1), (0, 3), (1, 1), (1, 4), (2, 5)]
    after = piles.after("g")
    assert after.left == (3, 0, 5) and after.moves() == tuple("abchijkl") and after.seen(1) == "345g"


def test_who_takes_the_last_one_wins() -> None:
    end = Piles((1, 2), (1, 2)).after("a").after("c")
    assert end.player() == -2 and end.returns() == (-1.0, 1.0)
    assert Piles((1, 2), (1, 2)).after("c").after("a").returns() == (-1.0, 1.0)
    assert Piles((1, 2), (1, 2)).after("b").after("b").after("a").returns() == (1.0, -1.0)


@pytest.mark.parametrize(("piles", "winner"), [((3, 4, 5), 0), ((1, 2, 3), 1), ((2, 2), 1), ((7,), 0)])
def test_perfect_play_keeps_a_won_game(piles: tuple[int, ...], winner: int) -> None:
    """The first player wins exactly where the piles' exclusive or is not 0. Source: Bouton 1901."""
    env, rng = Nim(piles=piles), random.Random(0)
    bots = env.bots()
    for _ in range(100):
        state = env.root()
        while (player := state.player()) >= 0:
            state = state.after(bots["perfect" if player == winner else "random"](state, rng))
        assert state.returns()[winner] == 1.0


def test_words() -> None:
    state = Nim(form="words", legal=False).root()
    assert state.actions()[3] == "[2 1]"
    state = state.after("[2 4]")
    told = state.view(1)[0].text
    assert told.endswith("Your opponent takes 4 from pile 2.\nNow pile 1 has 3, pile 2 has 0, pile 3 has 5.")
