"""A whole run of games: it rates itself, keeps its opponents, and goes on after a stop as if there had been none."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from small_runs import save_random

import envs
from selfplay import learner, recipe
from selfplay.checkpoint import MANIFEST
from selfplay.compare import read_run
from selfplay.config import Run
from selfplay.errors import UserError
from selfplay.examine import base_of, evaluate_command
from selfplay.models import load
from selfplay.records import Player, PolicyRef
from selfplay.room import _check_moves, _views
from selfplay.units import _learners

FLAGS = (
    "--schedule.generations 2 --schedule.steps-per-generation 2 --cluster.actors 0 --cluster.threads 2 "
    "--acquire.tasks-per-unit 16 --evaluate.games 8 --output.keep 1 --policies.main.weights pretrained"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    model = save_random(tmp_path_factory.mktemp("model"))
    return recipe.resolve("league", [*FLAGS.split(), "--policies.main.model", str(model)])


@pytest.fixture(scope="module")
def folder(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "league"
    learner.train(run, out)
    return out


def lines(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what follows the clock."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    clock = ("time/", "perf/", "progress/minutes")
    return [{k: v for k, v in line.items() if not k.startswith(clock) and k != "wall"} for line in found]


def test_curves_of_games(folder: Path) -> None:
    found = lines(folder)
    generations = [line for line in found if "game/kuhn/nash_conv" in line]
    assert len(generations) == 3 and len({tuple(sorted(line)) for line in generations}) == 1  # the same names always
    for line in generations:
        assert 0 < line["game/kuhn/nash_conv"] < 4 and line["game/kuhn/illegal_mass"] == 0  # held to their legal moves
        assert line["game/kuhn/nash_conv_legal"] == pytest.approx(line["game/kuhn/nash_conv"])
        assert line["game/kuhn/vs_random/first_win"] is not None
    assert (
        generations[0]["game/kuhn/vs_past/first_win"] is None
        and generations[2]["game/kuhn/vs_past/first_win"] is not None
    )
    steps = [line for line in found if "game/kuhn/moves" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert {"baseline/play/env=kuhn|seat=0", "baseline/play/env=kuhn|seat=1"} <= steps[-1].keys()
    assert all(line["game/kuhn/illegal_rate"] == 0 and line["mismatch/logp_absdiff_max"] < 1e-5 for line in steps)
    assert not any(name.startswith(("solve_rate/", "curriculum/p_")) for line in steps for name in line)


def test_what_a_run_drew_anew_is_its_base(run: Run, tmp_path: Path) -> None:
    policies = {"main": replace(run.policies["main"], weights="random")}
    anew = replace(run, policies=policies, seed=3)
    began = learner.Learner(anew, tmp_path / "run").joint.policies["main"].params
    for mine, theirs in zip(jax.tree.leaves(base_of(anew, "main").params), jax.tree.leaves(began), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    other = jax.tree.leaves(base_of(run, "main").params)
    assert any(not np.array_equal(a, b) for a, b in zip(other, jax.tree.leaves(began), strict=True))


def test_evaluate_says_what_the_run_said(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    evaluate_command(str(folder), tasks=8, out=tmp_path / "scores.json")
    head, _, columns, *_ = shown = capsys.readouterr().out.splitlines()
    assert head == "8 games against each opponent, half from each seat" and columns == "| game | generation 2 | base |"
    assert any(line.startswith("| kuhn/vs_equilibrium/second_loss |") for line in shown)
    found = json.loads((tmp_path / "scores.json").read_text())["scores"]
    ends = [line for line in lines(folder) if "game/kuhn/nash_conv" in line]
    for name, end in (("generation 2", ends[2]), ("base", ends[0])):
        for measure in ("nash_conv", "nash_conv_legal", "value", "illegal_mass"):
            assert found[name][f"game/kuhn/{measure}"] == pytest.approx(end[f"game/kuhn/{measure}"], rel=1e-4)
        assert not any("elo" in measure or "past" in measure for measure in found[name])
    for given, message in (
        ({"tasks": 3}, "--tasks must be even, got 3"),
        ({"samples": 4}, "--samples: kuhn is a game"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate_command(str(folder), **given)


def test_compare_says_that_games_have_no_held_out_scores(folder: Path) -> None:
    with pytest.raises(UserError, match="only plays games and has no held-out scores"):
        read_run(folder)


def test_opponents_are_kept_and_a_resume_gives_the_same_bits(run: Run, folder: Path, tmp_path: Path) -> None:
    kept = sorted(p.parent.name for p in (folder / "generations").glob(f"*/{MANIFEST}"))
    assert kept == ["0000", "0001", "0002"]  # 1 is past retention, but an opponent
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    shutil.rmtree(again / "generations" / "0002")
    learner.train(run, again, resume=True)
    assert lines(again) == lines(folder)


@pytest.mark.parametrize(
    ("name", "env", "message"),
    [
        ("quickstart", "kuhn", "environment kuhn is a game of 2 seats, and recipe quickstart plays none; recipes that"),
        ("rlvr", "leduc", "environment leduc is a game of 2 seats, and recipe rlvr plays none"),
        (
            "spiral",
            "chain",
            "environment chain is no game, and recipe spiral only plays; recipes that work: quickstart",
        ),
    ],
)
def test_games_and_tasks_are_not_mixed_up(name: str, env: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe.check_envs(recipe.resolve(name, env=env))


def test_only_zero_sum_games_are_played(monkeypatch: pytest.MonkeyPatch) -> None:
    game: Any = envs.make("kuhn")
    game.spec = type(game.spec)(**{f: getattr(game.spec, f) for f in game.spec.__struct_fields__} | {"zero_sum": False})
    monkeypatch.setattr(envs, "make", lambda name, **options: game)
    with pytest.raises(UserError, match="kuhn is a game of 2 seats that is not zero-sum: zero-sum games of two seats"):
        recipe.check_envs(recipe.resolve("spiral"))


def test_views_that_are_shown_again_are_refused() -> None:
    import envs

    game: Any = envs.make("kuhn")
    opened = game.open

    def forgetful(task: Any) -> Any:
        episode = opened(task)
        turn = episode.turn
        episode.turn = lambda: (
            (t := turn()) and type(t)(seat=t.seat, new_messages=episode.state.view(t.seat), legal=t.legal)
        )
        return episode

    assert len(list(_views(game, "kuhn"))) > 8
    game.open = forgetful
    with pytest.raises(UserError, match="environment kuhn: the views of seat 0 are not append-only"):
        list(_views(game, "kuhn"))


def test_moves_that_nobody_names_or_that_do_not_fit_are_refused(run: Run) -> None:
    held = replace(run, roles={"play": replace(run.roles["play"], constrain="legal")})
    model, words = load("tiny"), envs.make("kuhn", form="words")
    _check_moves(held, envs.make("kuhn"), "kuhn", model)
    with pytest.raises(UserError, match="environment kuhn: move '.check.' takes 7 tokens, a turn has 1$"):
        _check_moves(held, words, "kuhn", model)
    game: Any = envs.make("kuhn")
    opened = game.open

    def silent(task: Any) -> Any:
        episode = opened(task)
        turn = episode.turn
        episode.turn = lambda: (t := turn()) and type(t)(seat=t.seat, new_messages=t.new_messages)
        return episode

    game.open = silent
    with pytest.raises(UserError, match="^roles.play.constrain = legal: environment kuhn does not say which moves are"):
        _check_moves(held, game, "kuhn", model)
    with pytest.raises(UserError, match="^roles.solve.constrain = legal: only the turns of games have legal moves$"):
        replace(run, roles={"solve": replace(run.roles["solve"], constrain="legal")})


def test_only_the_seat_that_is_learnt_from_reaches_the_loss(run: Run) -> None:
    now, past = PolicyRef("main", 5), Player("main", 2)
    me = Player("main", 5)
    one = replace(run, opponents=replace(run.opponents, learn="latest"))
    assert [_learners(run, now, (me, me), r) for r in (0, 1)] == [(0, 1), (0, 1)]
    assert [_learners(one, now, (me, me), r) for r in (0, 1)] == [(0,), (1,)]
    for settings in (run, one):
        assert _learners(settings, now, (past, me), 0) == (1,) and _learners(
            settings, now, (me, Player(bot="x")), 1
        ) == (0,)
