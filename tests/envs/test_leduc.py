"""Leduc hold'em by hand; tests/envs/test_openspiel_rules.py holds all of it against OpenSpiel."""

from __future__ import annotations

import pytest

from envs.leduc import Hand, Leduc


@pytest.mark.parametrize(
    ("cards", "first", "second", "payoff"),
    [
        ("KQ", "rf", "", 1),
        ("KQ", "crf", "", -1),
        ("KQ", "crrf", "", 3),
        ("KQJ", "cc", "cc", 1),
        ("KQQ", "rc", "cc", -3),
        ("KKQ", "rrc", "rrc", 0),
        ("JKJ", "rrc", "rrc", 13),
        ("QJK", "crc", "crf", -3),
    ],
)
def test_payoffs(cards: str, first: str, second: str, payoff: int) -> None:
    hand = Hand(cards, first, second)
    assert hand.player() == -2 and hand.returns() == (payoff, -payoff)


def test_moves() -> None:
    assert Hand("KQ").moves() == ("c", "r")
    assert Hand("KQ", "r").moves() == ("c", "r", "f")
    assert Hand("KQ", "rr").moves() == ("c", "f")
    assert Hand("KQQ", "cc", "r").moves() == ("c", "r", "f")


def test_chance_by_what_is_left() -> None:
    deals = dict(Hand().chances())
    assert deals["KK"] == pytest.approx(1 / 15) and deals["KQ"] == pytest.approx(2 / 15) and len(deals) == 9
    assert dict(Hand("KK", "cc").chances()) == {"J": 0.5, "Q": 0.5}
    assert dict(Hand("KQ", "cc").chances()) == {"J": 0.5, "Q": 0.25, "K": 0.25}


def test_words_tell_what_the_other_did() -> None:
    env = Leduc(form="words", legal=False)
    state = next(after for after, _ in env.root().chances() if after.position.cards == "QK")
    for action in ("[check]", "[bet]", "[raise]", "[call]"):
        state = state.after(action)
    state = next(after for after, _ in state.chances() if after.position.cards == "QKQ")
    news = [message.text for message in state.view(0) if message.role == "user"]
    assert news[0].endswith("Your card is the queen.")
    assert news[1:] == ["Your opponent bets.", "Your opponent calls.\nThe queen is turned up."]
    state = state.after("[bet]").after("[raise]")
    assert state.view(0)[-1].text == "Your opponent raises."
    assert state.view(1)[-2].text == "The queen is turned up.\nYour opponent bets."
