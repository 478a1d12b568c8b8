"""Ratings worked by hand, the coverage of their intervals, cycles that are there and cycles that are noise."""

from __future__ import annotations

from itertools import combinations
from math import log10, sqrt

import numpy as np
import pytest

from selfplay.payoffs import Payoffs, seats
from selfplay.ratings import ELO, cycles, elo, first_seat_gap
from selfplay.standing import Z, wilson


def results(games: dict[tuple[str, str], tuple[int, int, int]], payoff: float = 1.0) -> Payoffs:
    """A payoff matrix from (first, second) -> (wins, draws, losses) of the first."""
    payoffs = Payoffs()
    for (first, second), counts in games.items():
        for sign, n in zip((1, 0, -1), counts, strict=True):
            for _ in range(n):
                payoffs.add(first, second, sign * payoff)
    return payoffs


def test_two_players_by_hand():
    # 30 wins, 9 draws, 10 losses: 34.5 points to 14.5, and a virtual draw: 35 to 15 of 50 games.
    rating, half = elo(np.array([[0, 14.5], [34.5, 0]]))
    assert rating == pytest.approx([0, 400 * log10(35 / 15)])
    # The Fisher information of a log-odds from 50 games at p = 0.7 is 50 * 0.7 * 0.3.
    assert half == pytest.approx([0, ELO * Z / sqrt(50 * 0.7 * 0.3)])


def test_a_chain_adds_ratings_and_variances():
    # 0 and 2 never met: R_2 - R_0 is the sum of two independent differences.
    scores = np.array([[0, 10, 0], [30, 0, 5], [0, 25, 0]], float)
    rating, half = elo(scores)
    steps = [400 * log10(30.5 / 10.5), 400 * log10(25.5 / 5.5)]
    assert rating == pytest.approx([0, steps[0], sum(steps)])
    variances = [1 / (41 * (30.5 / 41) * (10.5 / 41)), 1 / (31 * (25.5 / 31) * (5.5 / 31))]
    assert half[2] == pytest.approx(ELO * Z * sqrt(sum(variances)))


def test_whoever_won_all_is_rated_and_whoever_never_met_is_not():
    rating, half = elo(np.array([[0, 0, 0], [100, 0, 0], [0, 0, 0]], float))
    assert rating[1] == pytest.approx(400 * log10(100.5 / 0.5)) and half[1] > 0
    assert np.isnan(rating[2]) and np.isnan(half[2])
    alone, width = elo(np.zeros((1, 1)))
    assert alone.tolist() == width.tolist() == [0.0]


def test_the_maximum_is_one_and_the_anchor_only_shifts_it():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 40, (6, 6)).astype(float)
    rating, _ = elo(scores)
    other, _ = elo(scores, anchor=3)
    np.testing.assert_allclose(rating - rating[3], other, atol=1e-6)
    points = scores + 0.5
    np.fill_diagonal(points, 0)
    p = 1 / (1 + 10 ** ((rating[None, :] - rating[:, None]) / 400))
    np.testing.assert_allclose(points.sum(1), ((points + points.T) * p).sum(1), rtol=1e-9)  # observed = expected points


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(1)
    truth, inside = np.array([0.0, 80.0, -120.0, 200.0]), 0
    for _ in range(250):
        scores = np.zeros((4, 4))
        for i, j in combinations(range(4), 2):
            p = 1 / (1 + 10 ** ((truth[j] - truth[i]) / 400))
            scores[i, j] = rng.binomial(60, p)
            scores[j, i] = 60 - scores[i, j]
        rating, half = elo(scores)
        inside += int((np.abs(rating - truth) <= half)[1:].sum())
    assert 0.92 < inside / 750 < 0.98  # 95 %, less or more by 3.7 standard errors


def test_a_cycle_is_a_sure_win_over_the_younger_and_a_sure_loss_to_the_older():
    circle = {("4", "2"): (80, 0, 20), ("4", "0"): (20, 0, 80), ("2", "0"): (80, 0, 20)}
    assert cycles(results(circle), [0, 2, 4]) == 1
    assert cycles(results(circle), [0, 4]) == 0  # it loses to the base, but beats nobody who came after it
    assert cycles(results(circle | {("4", "0"): (80, 0, 20)}), [0, 2, 4]) == 0
    assert cycles(results({("4", "2"): (20, 0, 80), ("4", "0"): (80, 0, 20)}), [0, 2, 4]) == 0  # forgetting, no circle
    assert cycles(results(circle | {("4", "0"): (8, 0, 12), ("4", "2"): (12, 0, 8)}), [0, 2, 4]) == 0  # too few games
    assert cycles(Payoffs(), [0]) == 0


def test_noise_among_equals_hardly_ever_rings():
    rng, rung = np.random.default_rng(2), 0
    for _ in range(200):
        wins = rng.binomial(64, 0.5, 9)
        games = {("9", str(g)): (int(w), 0, int(64 - w)) for g, w in enumerate(wins)}
        rung += cycles(results(games), list(range(10))) > 0
    assert rung <= 1  # at 95 % a generation, uncorrected, about 10 of 200 would ring


def test_the_first_seat_is_worth_what_it_wins_more_than_the_second():
    assert first_seat_gap(results({("3", "3"): (6, 0, 2)}, payoff=2.0), "3") == pytest.approx(2 * (6 - 2) * 2 / 8)
    assert np.isnan(first_seat_gap(Payoffs(), "3"))


def test_a_players_games_are_told_by_seat_as_that_player_sees_them():
    payoffs = results({("3", "random"): (5, 1, 2), ("random", "3"): (1, 0, 7)}, payoff=2.0)
    first, second = (r for _, r in seats(payoffs, "3", ["random"]))
    assert (first.wins, first.draws, first.losses, first.payoff) == (5, 1, 2, 6.0)
    assert (second.wins, second.draws, second.losses, second.payoff) == (7, 0, 1, 12.0)
    assert payoffs.score("3", "random") == (12.5, 16)
    assert payoffs.scores(["3", "random"]).tolist() == [[0, 12.5], [3.5, 0]]


def test_the_score_interval_widens_with_its_confidence():
    low, high = wilson(6, 10)
    lower, higher = wilson(6, 10, 3.0)
    assert lower < low < 0.6 < high < higher
