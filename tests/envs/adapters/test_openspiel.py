"""OpenSpiel's games as environments, and those that do not fit."""

from __future__ import annotations

import random
import sys

import pytest

import envs
from envs.adapters.openspiel import OpenSpiel
from envs.base import EnvUserError
from envs.check import check
from selfplay.game_tree import grow, nash_conv_legal, uniform


def made(game: str, **options: object) -> OpenSpiel:
    env = envs.make("openspiel", game=game, **options)
    assert isinstance(env, OpenSpiel)
    return env


@pytest.mark.parametrize("game", ["kuhn_poker", "connect_four(rows=4,columns=4)", "dark_hex(board_size=2)"])
def test_they_conform(game: str) -> None:
    report = check("openspiel", options={"game": game, "retries": 1}, tasks=6, limit_ms=500)
    assert report.ok, "\n".join(report.lines())
    assert {c.name for c in report.checks if c.outcome == "skip"} == {
        "splits",
        "gold",
        "junk",
        "rewards",
        "admit",
        "parallel",
    }


def test_kuhn_poker_is_ours() -> None:
    theirs, ours = grow(made("kuhn_poker")), grow(envs.make("kuhn"))
    assert len(theirs.keys) == len(ours.keys) == 12
    assert nash_conv_legal(theirs, uniform(theirs)) == pytest.approx(11 / 12)


def test_what_a_seat_is_shown() -> None:
    env = made("tic_tac_toe")
    episode = env.open(env.task("train", 0, 0))
    first = episode.turn()
    assert first is not None and first.seat == 0 and first.legal is not None and "[x(1,1)]" in first.legal
    text = first.new_messages[0].text
    assert text.startswith(
        "You play Tic Tac Toe. Write one legal move in brackets.\nYou are player 0.\n...\n...\n...\n"
    )
    assert text.endswith("[x(2,1)] [x(2,2)]")
    episode.act(0, "The middle: [X( 1,1)]? No: [ X(1,1) ]")
    second = episode.turn()
    assert second is not None and second.seat == 1 and "...\n.x.\n..." in second.new_messages[0].text


def test_a_preamble_of_ones_own_without_the_list() -> None:
    env = made("kuhn_poker", preamble="Cards 0, 1, 2.", legal=False)
    episode = env.open(env.task("train", 0, 0))
    turn = episode.turn()
    assert turn is not None and turn.legal == ("[Pass]", "[Bet]")
    assert turn.new_messages[0].text in [f"Cards 0, 1, 2.\nYou are player 0.\n{card}" for card in "012"]


def test_moves_that_differ_in_case_alone_carry_a_number() -> None:
    """In chess, bxc3 is the pawn's move and Bxc3 the bishop's; here both are legal."""
    env = made("chess")
    state = env.root()
    for move in "d3 Nf6 Bd2 Nd5 a3 Nc3".split():
        state = state.after(f"[{move}]")
    both = [move for move in state.actions() if "bxc3" in move.casefold()]
    assert sorted(move.partition(" #")[0] for move in both) == ["[Bxc3", "[bxc3"]
    assert all(env.parse(state, move.swapcase()) == move for move in state.actions())


def test_a_task_fixes_chance() -> None:
    env = made("backgammon")
    first, again, other = env.task("train", 0, 0), env.task("train", 0, 0), env.task("train", 1, 0)
    assert first.key == again.key != other.key
    assert made("tic_tac_toe").task("train", 0, 0).key == made("tic_tac_toe").task("train", 1, 0).key
    assert made("tic_tac_toe").task("train", 0, 0).key != made("connect_four").task("train", 0, 0).key
    turns = [env.open(task).turn() for task in (first, again)]
    assert turns[0] == turns[1]


def test_random_bot_plays() -> None:
    env = made("tic_tac_toe")
    state, rng = env.root(), random.Random(0)
    while state.player() >= 0:
        state = state.after(env.bots()["random"](state, rng))
    assert sum(state.returns()) == 0 and env.spec.reward_range == (-1.5, 1.0)


@pytest.mark.parametrize(
    ("game", "line"),
    [
        ("tictactoe", "OpenSpiel has no game 'tictactoe'; did you mean tic_tac_toe"),
        ("matrix_pd", "it is simultaneous, expected sequential"),
        ("kuhn_poker(players=3)", "it has 3 players, expected 2"),
        ("bargaining", "its payoffs are general sum, expected zero sum"),
        ("nim(x=3)", "cannot be made: Unknown parameter 'x'"),
    ],
)
def test_a_game_that_does_not_fit_is_one_line(game: str, line: str) -> None:
    with pytest.raises(EnvUserError) as raised:
        envs.make("openspiel", game=game)
    assert line in str(raised.value) and "\n" not in str(raised.value)


def test_without_openspiel_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyspiel", None)
    with pytest.raises(EnvUserError, match=r"OpenSpiel is not installed: pip install 'selfplay\[games\]'"):
        envs.make("openspiel", game="kuhn_poker")
    assert envs.describe("openspiel").startswith("any two-player, sequential, zero-sum game of OpenSpiel")
