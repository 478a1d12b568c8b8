"""What games share: both forms, what counts as a move, retries, forfeits, and wrong options."""

from __future__ import annotations

import random
import re

import pytest

import envs
from envs.base import CHANCE, EnvUserError, Game, IllegalRule, Message, Verdict
from envs.games import GameEnv
from envs.kuhn import Kuhn

NAMES = ("kuhn", "leduc", "tictactoe", "nim")


def user(text: str) -> Message:
    return Message("user", text)


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_are_one_game(name: str) -> None:
    """The same tasks, the same states in the same order of moves, the same information states."""
    brief, words = envs.make(name), envs.make(name, form="words")
    assert isinstance(brief, GameEnv) and isinstance(words, GameEnv)
    for index in range(20):
        task = brief.task("train", index, 0)
        assert words.task("train", index, 0) == task
        one, other, rng = brief.open(task), words.open(task), random.Random(index)
        while (turn := one.turn()) is not None:
            wordy = other.turn()
            assert wordy is not None and wordy.seat == turn.seat
            assert turn.legal is not None and wordy.legal is not None and len(turn.legal) == len(wordy.legal)
            assert all(len(move) == 1 for move in turn.legal)
            assert wordy.new_messages[0].text.endswith("Legal moves: " + " ".join(wordy.legal))
            at = rng.randrange(len(turn.legal))
            one.act(turn.seat, turn.legal[at])
            other.act(turn.seat, wordy.legal[at])
        assert one.verdicts() == other.verdicts() and other.turn() is None


@pytest.mark.parametrize("name", NAMES)
def test_the_compact_view_is_what_was_seen(name: str) -> None:
    env, rng = envs.make(name), random.Random(4)
    assert isinstance(env, GameEnv)
    for _ in range(20):
        state = env.root()
        while (seat := state.player()) != -2:
            if seat == CHANCE:
                state = rng.choice(state.chances())[0]
                continue
            assert "".join(m.text for m in state.view(seat)) == state.position.seen(seat)
            assert state.information(seat) == f"{seat}:{state.position.seen(seat)}"
            state = state.after(rng.choice(state.actions()))


def test_a_game_of_kuhn_in_words() -> None:
    env = Kuhn(form="words")
    deal = next(i for i in range(50) if env.task("train", i, 0).content == "QK")
    episode = env.open(env.task("train", deal, 0))
    first = episode.turn()
    assert first is not None and first.new_messages[0].text.startswith("You play Kuhn poker.")
    assert first.new_messages[0].text.endswith("Your card is the queen.\nLegal moves: [check] [bet]")
    episode.act(0, "I had better [bet]... no, [ Check ].")
    second = episode.turn()
    assert second is not None and "You are the second player." in second.new_messages[0].text
    assert second.new_messages[0].text.endswith("the king.\nYour opponent checks.\nLegal moves: [check] [bet]")
    episode.act(1, "[bet]")
    third = episode.turn()
    assert third is not None and third.new_messages == (user("Your opponent bets.\nLegal moves: [fold] [call]"),)
    episode.act(0, "[call]")
    assert episode.turn() is None and episode.verdicts() == (Verdict(-2.0, "ok"), Verdict(2.0, "ok"))


@pytest.mark.parametrize(
    ("text", "move"),
    [("p", "p"), ("b", "b"), ("P", None), ("p ", None), (" b", None), ("pb", None), ("", None), ("[bet]", None)],
)
def test_compact_takes_exactly_one_text_a_move(text: str, move: str | None) -> None:
    env = Kuhn()
    state = env.root().chances()[0][0]
    assert env.parse(state, text) == move


@pytest.mark.parametrize(
    ("text", "move"),
    [
        ("[bet]", "[bet]"),
        ("[Bet]", "[bet]"),
        ("first [check] then [ bet ]!", "[bet]"),
        ("[[bet]", "[bet]"),
        ("[bet] or [raise]", None),
        ("bet", None),
        ("[]", None),
        ("[call]", None),
        ("", None),
    ],
)
def test_words_take_the_last_bracket(text: str, move: str | None) -> None:
    env = Kuhn(form="words")
    assert env.parse(env.root().chances()[0][0], text) == move


def test_an_illegal_move_forfeits_at_once() -> None:
    env = Kuhn()
    assert env.spec.illegal == IllegalRule(retries=0, loser=-3.0, winner=1.0)  # SPIRAL's, times a largest payoff of 2
    episode = env.open(env.task("train", 0, 0))
    episode.act(0, "p")
    episode.act(1, "fold")
    assert episode.turn() is None
    assert episode.verdicts() == (Verdict(1.0, "ok"), Verdict(-3.0, "illegal"))
    with pytest.raises(ValueError, match="seat 0 cannot act: it is nobody's turn"):
        episode.act(0, "p")


def test_retries_are_counted_a_move() -> None:
    env = Kuhn(retries=1, forfeit=[-1.5, 0.5])
    episode = env.open(env.task("train", 0, 0))
    episode.act(0, "?!")
    again = episode.turn()
    assert again is not None and (again.seat, again.new_messages) == (0, (user("?"),))
    episode.act(0, "p")
    episode.act(1, "x")
    episode.act(1, "b")
    back = episode.turn()
    assert back is not None and (back.seat, back.new_messages) == (0, (user("b"),))
    episode.act(0, "x")
    episode.act(0, "x")
    assert episode.verdicts() == (Verdict(-1.5, "illegal"), Verdict(0.5, "ok"))


def test_acting_out_of_turn_is_a_bug() -> None:
    episode = Kuhn().open(Kuhn().task("train", 0, 0))
    with pytest.raises(ValueError, match="seat 1 cannot act: it is seat 0's turn"):
        episode.act(1, "p")
    with pytest.raises(ValueError, match="the game is not over"):
        episode.verdicts()


@pytest.mark.parametrize("name", NAMES)
def test_the_task_fixes_the_deal(name: str) -> None:
    env = envs.make(name)
    assert isinstance(env, Game) and env.spec.splits == () and env.size("train") is None
    tasks = [env.task("train", index, 7) for index in range(200)]
    deals = {task.content for task in tasks}
    assert len(deals) == {"kuhn": 6, "leduc": 24, "tictactoe": 1, "nim": 1}[name]
    assert len({task.key for task in tasks}) == len(deals) and len({task.seed for task in tasks}) == 200
    assert {task.prompt for task in tasks} == {()}


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("kuhn", {"form": "brief"}, "kuhn: option form must be one of compact, words, got 'brief'"),
        ("leduc", {"legal": 1}, "leduc: option legal must be one of True, False, got 1"),
        ("tictactoe", {"retries": -1}, "tictactoe: option retries must be a whole number from 0 to 100, got -1"),
        ("nim", {"forfeit": [1]}, "nim: option forfeit must be two numbers, loser and winner, got [1]"),
        ("kuhn", {"forfeit": [float("nan"), 0]}, "kuhn: option forfeit must be two numbers"),
        ("kuhn", {"alpha": 0.5}, "kuhn: option alpha must be a number from 0 to 1/3, got 0.5"),
        ("nim", {"piles": [0, 3]}, "nim: option piles must be whole numbers from 1 to 9"),
        ("nim", {"piles": [9] * 6}, "52 together at most"),
    ],
)
def test_wrong_options_are_one_line(name: str, options: dict[str, object], line: str) -> None:
    with pytest.raises(EnvUserError, match=re.escape(line)):
        envs.make(name, **options)
