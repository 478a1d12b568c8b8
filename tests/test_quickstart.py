"""The quickstart moves the frontier: the long form of `a tiny policy learns` in test_learner.py, minutes."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfplay import recipe
from selfplay.learner import train
from selfplay.metrics import read_metrics

MASTERED = 0.97
"""Base pass@1 from which a difficulty counts as mastered."""


@pytest.mark.proof
def test_the_frontier_moves_and_nothing_is_forgotten(tmp_path: Path) -> None:
    run = recipe.fix_threads(recipe.resolve("quickstart", []))
    train(run, tmp_path / "run")
    base, *_, last = read_metrics(tmp_path / "run", "generation")

    def score(record: dict[str, float], difficulty: int) -> float:
        return record[f"eval/test/chain/{difficulty}/pass@1"]

    first, second = 6, 7  # the two difficulties just beyond what the base is good at
    assert 0.35 < score(base, first) < 0.55 and 0.05 < score(base, second) < 0.15
    assert score(last, first) > 0.90
    assert score(last, second) > 0.50
    for difficulty in run.envs["chain"].difficulties:
        if score(base, difficulty) >= MASTERED:
            assert score(last, difficulty) > 0.95
    start = sum(step["propose/difficulty_mean"] for step in read_metrics(tmp_path / "run", "step")[:3]) / 3
    asked = [g["curriculum/proposed_difficulty_mean"] for g in read_metrics(tmp_path / "run", "generation")[1:]]
    assert max(asked) > start + 1.5  # while there is something to learn further out
    assert asked[-1] > start
