"""Opponents: the pool's bounds, the draws, balanced seats, results, and the way to a checkpoint and back."""

from __future__ import annotations

import random
from collections import Counter
from math import isnan
from typing import get_args

import msgspec
import numpy as np
import pytest

from envs.base import Status, Task, Verdict
from selfplay import config
from selfplay.config import Run, Schedule
from selfplay.errors import CheckpointError, UserError
from selfplay.game_curves import game_curves, payoff_picture
from selfplay.metrics.names import check_names, known
from selfplay.opponents import DRAWS, Opponents, Saved, check_opponents
from selfplay.records import GameResult, Group, Player, PolicyRef, decode, encode

TASK = Task(
    env="kuhn",
    env_version="1",
    split="train",
    seed=0,
    index=0,
    mode="solve",
    difficulty=1,
    prompt=(),
    payload={},
    content="JQ",
    family="JQ",
)


def main(version: int) -> Player:
    return Player(policy="main", version=version)


def bot(name: str = "random") -> Player:
    return Player(bot=name)


def game(first: Player, second: Player, *payoffs: float, env: str = "kuhn", status: Status = "ok") -> Group:
    """Games of one deal with the payoffs of the first seat."""
    ended = tuple(GameResult((Verdict(p, status), Verdict(-p, status)), moves=2) for p in payoffs)
    return Group(
        generation=1, step=1, unit=0, row=0, kind="play", env=env, mode="solve", split="train", task=TASK,
        seats={}, players=(first, second), games=ended,
    )  # fmt: skip


def pool(*ended: int, **fields: object) -> Opponents:
    """Opponents whose generation g ended with version 10 g."""
    opponents = Opponents(config.Opponents(**fields))  # type: ignore[arg-type]
    for generation in ended:
        opponents.remember(10 * generation, generation)
    return opponents


def others(opponents: Opponents, rows: int, now: int, seed: int = 0) -> list[Player]:
    """Whom the newest weights meet, row by row; checks that they sit at seat row mod 2."""
    line_ups = opponents.line_ups(rows, random.Random(seed), PolicyRef("main", now), env="kuhn")
    assert len(line_ups) == rows and all(row[r % 2] == main(now) for r, row in enumerate(line_ups))
    return [row[1 - r % 2] for r, row in enumerate(line_ups)]


def test_a_player_is_a_policy_or_a_bot():
    with pytest.raises(ValueError, match="a policy or a bot"):
        Player()
    with pytest.raises(ValueError, match="a policy or a bot"):
        Player(policy="main", bot="random")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mix": {"nobody": 1.0}}, "opponents.mix must be over latest, uniform"),
        ({"mix": {"latest": -1.0}}, "opponents.mix.latest must be >= 0"),
        ({"mix": {"latest": 0.0}}, "of positive weight"),
        ({"mix": {"bot": 1.0}}, "needs opponents.bots"),
        ({"mix": {"fixed": 1.0}, "fixed": ()}, "needs opponents.fixed"),
        ({"fixed": (1, 1)}, "without repeats"),
        ({"bots": {"random": 0.0}}, "opponents.bots.random must be > 0"),
        ({"fixed": (-1,)}, "generations >= 0"),
        ({"pool": -1}, "opponents.pool"),
        ({"exponent": -0.5}, "opponents.exponent"),
    ],
)
def test_bad_settings_are_refused_in_one_line(fields: dict[str, object], message: str):
    with pytest.raises(UserError, match=message):
        config.Opponents(**fields)  # type: ignore[arg-type]


def test_a_generation_that_never_comes_is_refused():
    fixed = config.Opponents(mix={"fixed": 1.0}, fixed=(0, 3))
    Run(opponents=fixed, schedule=Schedule(generations=4))
    with pytest.raises(UserError, match="no generation 3 to play against"):
        Run(opponents=fixed, schedule=Schedule(generations=3))


def test_an_unknown_bot_is_refused():
    wanted = config.Opponents(mix={"bot": 1.0}, bots={"random": 1.0, "perfekt": 1.0})
    with pytest.raises(UserError, match="environment nim has no 'perfekt'; did you mean perfect"):
        check_opponents(wanted, {"nim": ("random", "perfect")})
    check_opponents(config.Opponents(bots={"random": 1.0, "perfekt": 1.0}), {"nim": ()})  # not in the mix


def test_the_pool_spans_the_run_and_keeps_what_it_must():
    opponents = pool(*range(13), pool=3, fixed=(0, 5))
    kept = opponents.generations()
    assert {0, 5, 12} <= set(kept) and len(kept) == 3 + 3
    assert opponents.versions() == {10 * g for g in kept}
    assert max(b - a for a, b in zip(kept, kept[1:], strict=False)) <= 5
    assert pool(*range(13), pool=0).generations() == [0, 12]
    with pytest.raises(ValueError, match="not newer"):
        opponents.remember(120, 12)


def test_seats_are_balanced_against_every_opponent():
    opponents = pool(0, 1, 2, mix={"latest": 1, "uniform": 1, "bot": 1}, bots={"random": 1.0})
    line_ups = opponents.line_ups(400, random.Random(0), PolicyRef("main", 25), env="kuhn")
    first = Counter(row[1] for r, row in enumerate(line_ups) if r % 2 == 0)
    second = Counter(row[0] for r, row in enumerate(line_ups) if r % 2 == 1)
    assert first == second and set(first) == {main(25), main(0), main(10), main(20), bot()}


def test_the_mix_is_drawn_by_weight_and_from_the_rng_alone():
    opponents = pool(0, 1, 2, mix={"latest": 0.5, "uniform": 0.35, "bot": 0.15}, bots={"random": 1.0})
    met = others(opponents, 4000, now=25)
    share = Counter("bot" if p.bot else "latest" if p.version == 25 else "past" for p in met)
    assert [share[k] / 4000 for k in ("latest", "past", "bot")] == pytest.approx([0.5, 0.35, 0.15], abs=0.05)
    assert met == others(opponents, 4000, now=25) != others(opponents, 4000, now=25, seed=1)


def test_a_kind_without_anybody_leaves_its_weight_to_the_others():
    opponents = pool(0, mix={"uniform": 1.0, "bot": 1.0}, bots={"random": 1.0})
    assert set(others(opponents, 40, now=0)) == {bot()}  # generation 0 is the newest weights themselves
    assert set(others(opponents, 40, now=1)) == {bot(), main(0)}
    assert set(others(pool(0, mix={"prioritised": 1.0}), 4, now=0)) == {main(0)}
    late = pool(0, mix={"fixed": 1.0}, fixed=(2,))
    assert set(others(late, 4, now=3)) == {main(3)}
    late.remember(10, 1), late.remember(20, 2)
    assert set(others(late, 4, now=23)) == {main(20)}


def test_scripted_players_are_met_by_weight():
    met = others(pool(0, mix={"bot": 1.0}, bots={"perfect": 1.0, "random": 3.0}), 4000, now=1)
    share = Counter(player.bot for player in met)
    assert share["perfect"] / 4000 == pytest.approx(0.25, abs=0.04) and share["random"] == 4000 - share["perfect"]


def test_every_past_kind_of_the_config_has_a_draw():
    assert {*DRAWS, "latest", "bot"} == set(get_args(config.OpponentKind))


def test_prioritised_draws_by_the_losses_to_a_power():
    opponents = pool(0, 1, 2, mix={"prioritised": 1.0}, exponent=2.0)
    wins = {0: 16, 1: 10, 2: 4}  # of 20 against each: win rates .8, .5, .2
    opponents.record([game(main(25), main(10 * g), *[1.0] * n, *[-1.0] * (20 - n)) for g, n in wins.items()])
    assert opponents.win_rates("kuhn") == pytest.approx({0: 0.8, 1: 0.5, 2: 0.2})
    share = Counter(p.version // 10 for p in others(opponents, 6000, now=25))
    expected = np.array([0.2**2, 0.5**2, 0.8**2])
    assert [share[g] / 6000 for g in (0, 1, 2)] == pytest.approx(expected / expected.sum(), abs=0.03)


def test_one_who_is_always_beaten_is_not_drawn_but_all_alike_are_when_all_are():
    opponents = pool(0, 1, mix={"prioritised": 1.0})
    opponents.record([game(main(15), main(0), *[1.0] * 5)])
    assert set(others(opponents, 40, now=15)) == {main(10)}
    opponents.record([game(main(10), main(15), *[-1.0] * 5)])
    assert set(others(opponents, 40, now=15)) == {main(0), main(10)}


def test_form_forgets_and_the_matrix_does_not():
    opponents = pool(0, 1)
    for payoff in (-1.0, 1.0):
        opponents.record([game(main(10), main(0), *[payoff] * 10)])
    assert opponents.win_rates("kuhn")[0] == pytest.approx(10 / (10 + 0.9 * 10))
    met = opponents.payoffs("kuhn").between("1", "0")
    assert (met.wins, met.losses, met.payoff) == (10, 10, 0.0)


def test_only_kept_versions_and_bots_enter_the_matrix():
    opponents = pool(0, 1)
    opponents.record(
        [
            game(main(13), main(0), 1.0),  # within generation 2
            game(main(10), bot(), 2.0, -1.0),
            game(bot(), main(10), 1.0, 0.0),
            game(main(10), main(10), 1.0, 1.0, -1.0),
            game(main(10), main(0), 1.0, status="env_error"),
        ]
    )
    payoffs = opponents.payoffs("kuhn")
    assert {a: set(row) for a, row in payoffs.table.items()} == {"1": {"random", "1"}, "random": {"1"}}
    assert payoffs.score("1", "random") == (1 + 0 + 0.5, 4)  # won one, lost one; then lost one and drew one
    assert payoffs.between("random", "1").payoff == 1.0
    assert (payoffs.between("1", "1").wins, payoffs.between("1", "1").losses) == (2, 1)


def test_a_forfeit_counts_for_the_one_who_did_not():
    forfeited = GameResult((Verdict(-1.5, "illegal"), Verdict(0.5, "ok")), moves=1)
    opponents = pool(0, 1)
    opponents.record([msgspec.structs.replace(game(main(10), main(0)), games=(forfeited,))])
    assert opponents.payoffs("kuhn").between("1", "0").losses == 1
    assert opponents.payoffs("kuhn").between("1", "0").payoff == -1.0  # (-1.5 - 0.5) / 2


def test_who_leaves_the_pool_leaves_the_results():
    opponents = pool(0, 1, 2, pool=1)
    opponents.record([game(main(20), main(10), 1.0), game(main(20), main(0), 1.0)])
    opponents.remember(30, 3)
    gone = ({1, 2} - set(opponents.generations())).pop()
    table = opponents.payoffs("kuhn").table
    assert str(gone) not in table and all(str(gone) not in row for row in table.values())
    assert gone not in opponents.win_rates("kuhn")


def test_a_checkpoint_goes_on_as_if_never_stopped():
    opponents = pool(0, 1, 2, mix={"prioritised": 1.0, "latest": 0.5})
    opponents.record([game(main(20), main(0), 1.0, -1.0, 1.0), game(main(20), bot(), 0.0)])
    data = encode(opponents.state())
    again = Opponents(config.Opponents(mix={"prioritised": 1.0, "latest": 0.5}))
    again.restore(decode(data, Saved))
    assert encode(again.state()) == data
    assert others(again, 40, now=25) == others(opponents, 40, now=25)
    later = decode(data, Saved)
    later.format = 99
    with pytest.raises(CheckpointError, match="format 99"):
        again.restore(later)


def test_the_state_is_bounded():
    opponents = pool(0, pool=2)
    for g in range(1, 60):
        opponents.remember(10 * g, g)
        games = opponents.rating_line_ups(PolicyRef("main", 10 * g), bots=("random", "perfect"), games=2)
        opponents.record([game(*row, 1.0) for row in games])
        if g == 10:
            early = len(encode(opponents.state()))
    assert len(opponents.generations()) == 4 and len(encode(opponents.state())) < early + 200


def test_rating_games_meet_every_kept_one_and_every_bot_from_both_seats():
    opponents = pool(0, 1, 2)
    row_of = opponents.rating_line_ups(PolicyRef("main", 20), bots=("random",), games=4)
    met = Counter(row_of)
    for other in (main(0), main(10), bot()):
        assert met[main(20), other] == met[other, main(20)] == 2
    assert met[main(20), main(20)] == 4 and len(row_of) == 16
    with pytest.raises(ValueError, match="multiple of 2"):
        opponents.rating_line_ups(PolicyRef("main", 20), bots=(), games=3)


def test_curves_have_the_same_names_every_generation():
    opponents, bots = pool(0), ("perfect", "random")
    before = game_curves(opponents.payoffs("kuhn"), opponents.generations(), bots, env="kuhn")
    check_names(before)
    assert before["game/kuhn/elo"] == before["game/kuhn/elo_low"] == 0 and before["game/kuhn/cycles"] == 0
    assert isnan(before["game/kuhn/vs_random/first_win"]) and isnan(before["game/kuhn/first_seat_gap"])
    for g in (1, 2):
        opponents.remember(10 * g, g)
    opponents.record([game(main(20), main(0), *[1.0] * 6, *[-1.0] * 2), game(main(20), bot(), 2.0, -1.0)])
    opponents.record([game(main(10), main(20), -1.0, 0.0)])
    after = game_curves(opponents.payoffs("kuhn"), opponents.generations(), bots, env="kuhn")
    assert set(after) == set(before) and len(after) == 5 + 8 * 5
    assert after["game/kuhn/vs_0/first_win"] == 0.75 and after["game/kuhn/vs_0/first_payoff"] == 0.5
    assert after["game/kuhn/vs_previous/second_draw"] == 0.5
    assert after["game/kuhn/vs_past/first_win"] == 0.75 and after["game/kuhn/vs_past/second_win"] == 0.5
    assert after["game/kuhn/elo_low"] < 0 < after["game/kuhn/elo"] < after["game/kuhn/elo_high"]
    assert not known("game/kuhn/vs_random/third_win")


def test_the_picture_shows_the_rows_share_of_points():
    opponents = pool(0, 1)
    opponents.record([game(main(10), main(0), 1.0, 1.0, 1.0, 1.0), game(main(10), bot("equilibrium"), 0.0)])
    drawn = payoff_picture(opponents.payoffs("kuhn"), opponents.generations(), ["equilibrium"], env="kuhn")
    assert drawn.dtype == np.uint8 and drawn.shape[2] == 3
    colours = drawn[26 + 3 :: 24, 36 + 3 :: 40][:2, :3]  # a corner of every cell
    assert colours[0, 0].tolist() == [253, 231, 37] and colours[1, 1].tolist() == [68, 1, 84]  # 1 and 0 of viridis
    assert colours[0, 1].tolist() == colours[1, 0].tolist() == [222, 222, 222]  # itself is grey
    assert colours[0, 2].tolist() == [33, 145, 140]  # one half
