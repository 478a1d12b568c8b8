"""Exact measures: numbers worked by hand or by OpenSpiel, and what must hold for any policy."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pyspiel
import pytest
from hypothesis import given
from hypothesis import strategies as st
from open_spiel.python import policy as openspiel_policy
from open_spiel.python.algorithms import exploitability

import envs
from envs.base import CHANCE, OVER, Game, State
from envs.kuhn import bet_probability
from selfplay.game_tree import (
    AveragePolicy,
    GameTree,
    Table,
    best_response,
    game_value,
    grow,
    illegal_mass,
    legal,
    nash_conv,
    nash_conv_legal,
    uniform,
    values,
)


def game_of(name: str, **options: object) -> Game:
    game = envs.make(name, **options)
    assert isinstance(game, Game)
    return game


KUHN = grow(game_of("kuhn"))
LEDUC = grow(game_of("leduc"))


def equilibrium(alpha: float) -> Table:
    """Kuhn's, as a table: pass, bet, illegal."""
    bets = bet_probability(alpha)
    return {key: [1 - bets[key[2:]], bets[key[2:]], 0.0] for key in KUHN.keys}


def drawn(tree: GameTree, seed: int) -> Table:
    """A random policy with some illegal mass, in some states none, and some actions never taken."""
    rng = np.random.default_rng(seed)
    weights = [
        rng.exponential(size=len(actions) + 1) * (rng.random(len(actions) + 1) < 0.7) for actions in tree.actions
    ]
    return {
        key: ((row + (row.sum() == 0)) / (row + (row.sum() == 0)).sum()).tolist()
        for key, row in zip(tree.keys, weights, strict=True)
    }


def test_uniform_kuhn_is_eleven_twelfths_away_from_equilibrium() -> None:
    assert nash_conv(KUHN, uniform(KUHN)) == pytest.approx(11 / 12, abs=1e-12)
    assert game_value(KUHN, uniform(KUHN)) == pytest.approx(1 / 8)
    # Against a uniform first player the second gains 5/12, the first 1/2 against a uniform second: 11/12.
    assert best_response(KUHN, uniform(KUHN), 0)[0] == pytest.approx(1 / 2)
    assert best_response(KUHN, uniform(KUHN), 1)[0] == pytest.approx(5 / 12)


@pytest.mark.parametrize("alpha", [0.0, 0.2, 1 / 3])
def test_kuhns_equilibria(alpha: float) -> None:
    table = equilibrium(alpha)
    assert nash_conv(KUHN, table) == pytest.approx(0, abs=1e-12)
    assert nash_conv_legal(KUHN, table) == pytest.approx(0, abs=1e-12)
    assert values(KUHN, table) == pytest.approx((-1 / 18, 1 / 18))
    assert illegal_mass(KUHN, table) == (0.0, 0.0)


def test_leduc_as_openspiel_has_it() -> None:
    assert (len(KUHN.keys), len(LEDUC.keys)) == (12, 288)
    assert nash_conv(LEDUC, uniform(LEDUC)) == pytest.approx(4.747222222222222, abs=1e-9)
    theirs = pyspiel.load_game("leduc_poker(suit_isomorphism=True)")
    assert nash_conv(LEDUC, uniform(LEDUC)) == pytest.approx(
        exploitability.nash_conv(theirs, openspiel_policy.UniformRandomPolicy(theirs))
    )


def extensive_form(game: Game) -> str:
    """A game with its illegal moves, in Gambit's text format, which OpenSpiel reads."""
    outcomes, chances = itertools.count(1), itertools.count(1)
    infos: tuple[dict[str, int], ...] = ({}, {})
    assert game.spec.illegal is not None
    loser, winner = game.spec.illegal.loser, game.spec.illegal.winner

    def end(payoffs: tuple[float, ...]) -> str:
        return f't "" {next(outcomes)} "" {{ {payoffs[0]} {payoffs[1]} }}'

    def lines(state: State) -> list[str]:
        seat = state.player()
        if seat == OVER:
            return [end(state.returns())]
        if seat == CHANCE:
            after = [s for s, _ in state.chances()]
            named = " ".join(f'"{at}" {p}' for at, (_, p) in enumerate(state.chances()))
            head = f'c "" {next(chances)} "" {{ {named} }} 0'
        else:
            after = [state.after(action) for action in state.actions()]
            named = " ".join(json.dumps(action) for action in (*state.actions(), "illegal"))
            key = state.information(seat)
            head = f'p "" {seat + 1} {infos[seat].setdefault(key, len(infos[seat]) + 1)} "{key}" {{ {named} }} 0'
        below = [line for s in after for line in lines(s)]
        return [head, *below, *([end((loser, winner) if seat == 0 else (winner, loser))] if seat >= 0 else [])]

    return "\n".join(['EFG 2 R "game" { "0" "1" }', *lines(game.root())])


def openspiel_nash_conv(game: Game, table: Table) -> float:
    """OpenSpiel's NashConv of a table, illegal mass included, on the extended game."""
    theirs = pyspiel.load_efg_game(extensive_form(game))

    def probabilities(state: pyspiel.State) -> dict[int, float]:
        row = table[state.information_state_string().split("-", 3)[-1]]  # "0-0-1-0:J": player, ids, our label
        return dict(zip(state.legal_actions(), row, strict=True))

    return float(exploitability.nash_conv(theirs, openspiel_policy.tabular_policy_from_callable(theirs, probabilities)))


@pytest.mark.parametrize("options", [{}, {"forfeit": [-1.5, 0.5]}])
def test_a_tenth_of_illegal_moves_as_openspiel_has_it(options: dict[str, object]) -> None:
    game = game_of("kuhn", **options)
    tree = grow(game)
    table = {key: [0.54, 0.36, 0.1] for key in tree.keys}
    assert nash_conv(tree, table) == pytest.approx(openspiel_nash_conv(game, table), abs=1e-12)
    assert nash_conv(tree, table) > nash_conv_legal(tree, table)
    assert illegal_mass(tree, table) == pytest.approx((0.1, 0.1))
    assert legal(tree, table)["0:J"] == pytest.approx([0.6, 0.4, 0.0])
    assert nash_conv_legal(tree, table) == pytest.approx(nash_conv(tree, legal(tree, table)))


@pytest.mark.parametrize("name", ["kuhn", "leduc"])
def test_random_tables_as_openspiel_has_them(name: str) -> None:
    game, tree = game_of(name), {"kuhn": KUHN, "leduc": LEDUC}[name]
    table = drawn(tree, 3)
    assert nash_conv(tree, table) == pytest.approx(openspiel_nash_conv(game, table), abs=1e-9)


def test_a_forfeit_that_pays_is_taken_by_the_best_response() -> None:
    tree = grow(game_of("kuhn", forfeit=[5.0, 0.0]))
    value, response = best_response(tree, uniform(tree), 0)
    assert value == 5.0 and response["0:J"] == [0.0, 0.0, 1.0]
    assert nash_conv_legal(tree, uniform(tree)) == pytest.approx(11 / 12)


def test_illegal_mass_is_weighted_by_reach() -> None:
    # Everyone passes; only after a pass does the second seat write nonsense, half the time: 1/2 of every second move.
    table = {key: [0.5, 0.0, 0.5] if key[2:] in ("Jp", "Qp", "Kp") else [1.0, 0.0, 0.0] for key in KUHN.keys}
    assert illegal_mass(KUHN, table) == pytest.approx((0.25, 0.5))
    never = {**table, "0:Jpb": [0.0, 0.0, 1.0]}  # a state that is never reached
    assert illegal_mass(KUHN, never) == pytest.approx((0.25, 1.0))


tables = st.integers(min_value=0, max_value=2**32 - 1)


@given(tables)
def test_nash_conv_is_never_negative(seed: int) -> None:
    table = drawn(KUHN, seed)
    assert nash_conv(KUHN, table) > -1e-9 and nash_conv_legal(KUHN, table) > -1e-9
    for seat in (0, 1):
        value, response = best_response(KUHN, table, seat)
        assert values(KUHN, response)[seat] == pytest.approx(value)


@given(tables, tables)
def test_the_average_is_worth_the_mean_against_anyone(seed: int, other: int) -> None:
    """Realisation equivalence: own-reach weights, not a mean of probabilities."""
    one, two, opponent = drawn(KUHN, seed), drawn(KUHN, seed + 1), drawn(KUHN, other)
    average = AveragePolicy(KUHN)
    average.add(one)
    average.add(two)

    def against(policy: Table) -> float:
        mixed = {key: policy[key] if key.startswith("0:") else opponent[key] for key in KUHN.keys}
        return values(KUHN, mixed)[0]

    assert against(average.table()) == pytest.approx((against(one) + against(two)) / 2)


@given(tables)
def test_the_average_of_one_policy_is_itself(seed: int) -> None:
    table = drawn(KUHN, seed)
    average = AveragePolicy(KUHN)
    average.add(table)
    average.add(table)
    assert nash_conv(KUHN, average.table()) == pytest.approx(nash_conv(KUHN, table))
    positive = {key: [0.2, 0.5, 0.3] for key in KUHN.keys}  # where every state is reached, to the last number
    average = AveragePolicy(KUHN)
    average.add(positive)
    average.add(positive)
    assert all(average.table()[key] == pytest.approx(row) for key, row in positive.items())


def test_the_average_by_hand() -> None:
    # With a jack: always pass then call, and always bet. Only the first ever sees Jpb, so the average calls there.
    passes = {**uniform(KUHN), "0:J": [1.0, 0.0, 0.0], "0:Jpb": [0.0, 1.0, 0.0]}
    bets = {**uniform(KUHN), "0:J": [0.0, 1.0, 0.0], "0:Jpb": [1.0, 0.0, 0.0]}
    average = AveragePolicy(KUHN)
    assert average.table() == uniform(KUHN)
    for table in (passes, bets, bets):
        average.add(table)
    assert average.steps == 3
    assert average.table()["0:J"] == pytest.approx([1 / 3, 2 / 3, 0.0])
    assert average.table()["0:Jpb"] == pytest.approx([0.0, 1.0, 0.0])


def test_the_average_goes_through_a_checkpoint() -> None:
    average = AveragePolicy(KUHN)
    average.add(drawn(KUHN, 5))
    average.add(drawn(KUHN, 6))
    again = AveragePolicy.restored(KUHN, json.loads(json.dumps(average.state())))
    assert again.steps == 2 and again.table() == average.table()
    again.add(drawn(KUHN, 7))
    average.add(drawn(KUHN, 7))
    assert again.table() == average.table()
    with pytest.raises(ValueError, match="12 information states is not one of this game's 288"):
        AveragePolicy.restored(LEDUC, average.state())


def test_fictitious_play_approaches_equilibrium_in_the_average() -> None:
    average, table = AveragePolicy(KUHN), dict(uniform(KUHN))
    for _ in range(300):
        average.add(table)
        mean = average.table()
        answers = [best_response(KUHN, mean, seat)[1] for seat in (0, 1)]
        table = {key: answers[int(key[0])][key] for key in KUHN.keys}
    assert nash_conv(KUHN, average.table()) < 0.1 < nash_conv(KUHN, table)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ([0.5, 0.5], "expected 3 probabilities"),
        ([0.5, 0.5, 0.1], "sum to 1"),
        ([1.5, -0.5, 0.0], ">= 0"),
        (None, "got None"),
    ],
)
def test_a_wrong_table_is_refused(row: list[float] | None, told: str) -> None:
    table = {key: value for key, value in uniform(KUHN).items() if key != "0:J"}
    with pytest.raises(ValueError, match=told):
        nash_conv(KUHN, table if row is None else {**table, "0:J": row})


def test_games_that_cannot_be_judged_exactly_are_refused() -> None:
    with pytest.raises(ValueError, match="forfeit without retries"):
        grow(game_of("kuhn", retries=1))


def test_the_prompts_of_the_information_states() -> None:
    prompts = {key: "".join(m.text for m in view) for key, view in zip(KUHN.keys, KUHN.views, strict=True)}
    assert prompts["0:Kpb"] == "Kpb" and [m.role for m in KUHN.views[KUHN.keys.index("0:Kpb")]] == [
        "user", "assistant", "user",
    ]  # fmt: skip
    assert set(KUHN.actions) == {("p", "b")}
