"""Games are learnt: Kuhn poker towards equilibrium, tic-tac-toe to hold against perfect play (as proofs, minutes)."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfplay import recipe
from selfplay.learner import train
from selfplay.metrics import read_metrics

UNIFORM = 0.9167
"""Kuhn poker's NashConv of uniform play."""


def last_of(name: str, folder: Path, *flags: str) -> dict[str, float]:
    """The last generation's record of a run of a recipe."""
    run = recipe.fix_threads(recipe.resolve(name, " ".join(flags).split()))
    train(run, folder)
    return read_metrics(folder, "generation")[-1]


def test_self_play_comes_nearer_to_equilibrium(tmp_path: Path) -> None:
    short = "--schedule.generations 1 --schedule.steps-per-generation 16 --acquire.tasks-per-unit 96 --evaluate.games 0"
    last = last_of("spiral", tmp_path / "run", short)
    assert last["game/kuhn/nash_conv_average"] < UNIFORM / 2


@pytest.mark.proof
@pytest.mark.parametrize("seed", range(3))
def test_kuhn_is_near_equilibrium_in_the_recipes_160_steps(seed: int, tmp_path: Path) -> None:
    last = last_of("spiral", tmp_path / "run", f"--seed {seed}")
    assert last["game/kuhn/nash_conv_average"] < 0.10
    assert last["game/kuhn/nash_conv"] < 0.25
    assert last["game/kuhn/illegal_mass"] < 0.01


@pytest.mark.proof
def test_the_control_stays_far_from_equilibrium(tmp_path: Path) -> None:
    last = last_of("fixed-opponent", tmp_path / "run")
    assert last["game/kuhn/nash_conv"] > 0.25 and last["game/kuhn/nash_conv_average"] > 0.25


@pytest.mark.proof
def test_perfect_play_does_not_beat_what_tic_tac_toe_learnt(tmp_path: Path) -> None:
    last = last_of("ppo-tictactoe", tmp_path / "run", "--evaluate.games 2000")
    against = "game/tictactoe/vs"
    assert last[f"{against}_perfect/first_loss"] <= 0.03
    assert last[f"{against}_perfect/second_loss"] <= 0.03
    assert last[f"{against}_random/first_win"] >= 0.95
