"""Our rules beside OpenSpiel's: the same chance, the same legal moves, the same returns, over random games."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pyspiel
import pytest

import envs
from envs.base import CHANCE, OVER
from envs.games import GameEnv, GameState, Position


@dataclass(frozen=True)
class Twin:
    """A game of ours, OpenSpiel's name of it, and how its actions read in our compact form."""

    ours: str
    theirs: str
    move: Callable[[int], str]
    """OpenSpiel's action of a player -> our move."""
    card: Callable[[int], str] = str
    """OpenSpiel's outcome of chance -> our card."""


def nim_letter(action: int) -> str:
    """OpenSpiel numbers actions by how many are taken, then by pile; we by pile, then by how many."""
    piles = (3, 4, 5)
    taken, pile = divmod(action, len(piles))
    return "abcdefghijkl"[sum(piles[:pile]) + taken]


TWINS = (
    Twin("kuhn", "kuhn_poker", "pb".__getitem__, "JQK".__getitem__),
    Twin("leduc", "leduc_poker", "fcr".__getitem__, lambda card: "JQK"[card // 2]),
    Twin("tictactoe", "tic_tac_toe", lambda cell: str(cell + 1)),
    Twin("nim", "nim(is_misere=false,pile_sizes=3;4;5)", nim_letter),
)


def chance(state: GameState[Position], theirs: pyspiel.State, twin: Twin, rng: random.Random) -> GameState[Position]:
    """One outcome of chance of ours, which may be two of theirs, one card a seat; their probabilities sum to ours."""
    outcomes = dict(state.position.chances())
    assert sum(outcomes.values()) == pytest.approx(1)
    length = len(next(iter(outcomes)))
    dealt = ""
    for place in range(length):
        share: dict[str, float] = {}
        for outcome, probability in theirs.chance_outcomes():
            share[twin.card(outcome)] = share.get(twin.card(outcome), 0.0) + probability
        of_ours = sum(p for cards, p in outcomes.items() if cards.startswith(dealt))
        for card, probability in share.items():
            ours = sum(p for cards, p in outcomes.items() if cards.startswith(dealt + card))
            assert ours / of_ours == pytest.approx(probability)
        options, weights = zip(*theirs.chance_outcomes(), strict=True)
        drawn = rng.choices(options, weights)[0]
        dealt += twin.card(drawn)
        theirs.apply_action(drawn)
        assert theirs.is_chance_node() == (place < length - 1)
    return state.happens(dealt)


def play(game: GameEnv[Position], other: pyspiel.Game, twin: Twin, rng: random.Random) -> None:
    state, theirs = game.root(), other.new_initial_state()
    while (player := state.player()) != OVER:
        assert not theirs.is_terminal()
        if player == CHANCE:
            state = chance(state, theirs, twin, rng)
            continue
        legal = {twin.move(action): action for action in theirs.legal_actions()}
        assert player == theirs.current_player() and set(state.actions()) == set(legal)
        action = rng.choice(state.actions())
        state = state.after(action)
        theirs.apply_action(legal[action])
    assert theirs.is_terminal() and state.returns() == tuple(theirs.returns())


def compare(twin: Twin, games: int) -> None:
    game, other, rng = envs.make(twin.ours), pyspiel.load_game(twin.theirs), random.Random(1)
    assert isinstance(game, GameEnv)
    assert game.largest == other.max_utility()
    for _ in range(games):
        play(game, other, twin, rng)


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.ours)
def test_random_games_are_the_same(twin: Twin) -> None:
    compare(twin, 500)


@pytest.mark.proof
@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.ours)
def test_ten_thousand_random_games_are_the_same(twin: Twin) -> None:
    compare(twin, 10_000)
