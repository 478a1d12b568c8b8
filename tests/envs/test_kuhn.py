"""Kuhn poker's payoffs by hand, and its equilibrium bot."""

from __future__ import annotations

import random

import pytest

from envs.kuhn import Hand, Kuhn, bet_probability


@pytest.mark.parametrize(
    ("cards", "line", "payoff"),
    [("KQ", "pp", 1), ("JQ", "pp", -1), ("JK", "bp", 1), ("KJ", "pbp", -1), ("KJ", "pbb", 2), ("QK", "bb", -2)],
)
def test_payoffs(cards: str, line: str, payoff: int) -> None:
    hand = Hand(cards, line)
    assert hand.player() == -2 and hand.returns() == (payoff, -payoff)


def test_what_a_seat_sees() -> None:
    hand = Hand("JK", "pb")
    assert (hand.seen(0), hand.seen(1), hand.player()) == ("Jpb", "Kpb", 0)
    assert Hand().seen(0) == "" and sum(p for _, p in Hand().chances()) == pytest.approx(1)


@pytest.mark.parametrize("alpha", [0.0, 0.2])
@pytest.mark.parametrize("form", ["compact", "words"])
def test_the_equilibrium_bot_bets_as_often_as_it_should(alpha: float, form: str) -> None:
    env, rng = Kuhn(alpha=alpha, form=form), random.Random(0)
    bot = env.bots()["equilibrium"]
    for start, _ in env.root().chances():
        for state in (start, start.after(start.actions()[0]), start.after(start.actions()[1])):
            seen = state.position.seen(state.player())
            bets = sum(bot(state, rng) == state.actions()[1] for _ in range(400)) / 400
            assert bets == pytest.approx(bet_probability(alpha)[seen], abs=0.08)
