"""Held-out scores by hand and by enumeration, and what the next objective reads: dev, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from math import isnan
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as replaced
from small_runs import small_run
from test_refine import REF, attempt, task

import envs
from envs.base import Split
from selfplay.config import EnvChoice, Objective, Run
from selfplay.evaluate import dev_solve_rates, moving_solve_rates, next_objective, pass_at_k, scores
from selfplay.records import Group


def judged(letters: str, *, difficulty: int = 1, split: Split = "test", env: str = "chain") -> Group:
    """A task attempted as the letters say: k = solved, w = wrong, e = the environment failed."""
    return Group(
        generation=0, step=0, unit=0, row=0, kind="evaluate", env=env, mode="solve", split=split, seats={"solve": REF},
        task=replaced(task(1), difficulty=difficulty), attempts=tuple(map(attempt, letters)),
    )  # fmt: skip


def test_pass_at_k_by_hand() -> None:
    assert pass_at_k(4, 1, 1) == 0.25 and pass_at_k(4, 1, 2) == 0.5 and pass_at_k(4, 1, 4) == 1
    assert pass_at_k(4, 2, 2) == pytest.approx(1 - 1 / 6)
    assert [pass_at_k(8, 0, k) for k in (1, 8)] == [0, 0] and [pass_at_k(8, 8, k) for k in (1, 8)] == [1, 1]
    assert pass_at_k(64, 61, 4) == 1  # fewer than k wrong ones
    assert pass_at_k(1000, 1, 500) == pytest.approx(0.5)  # no overflow


@given(st.integers(1, 7).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_subsets_that_hold_a_right_one(nck: tuple[int, int, int]) -> None:
    n, c, k = nck
    subsets = list(combinations([1] * c + [0] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(any(s) for s in subsets) / len(subsets))


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 0), (4, 1, 5), (4, 5, 1), (4, -1, 1), (0, 0, 1)])
def test_pass_at_k_out_of_range(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="0 < k <= n and 0 <= c <= n"):
        pass_at_k(n, c, k)


def test_scores_by_hand() -> None:
    easy, hard = [judged("kwww"), judged("kkww")], [judged("wwww", difficulty=2), judged("kwww", difficulty=2)]
    found = scores([*easy, *hard, judged("k", split="dev")], ks=(1, 2))
    assert found["eval/test/chain/1/pass@1"] == pytest.approx((1 / 4 + 2 / 4) / 2)
    assert found["eval/test/chain/1/pass@2"] == pytest.approx((1 / 2 + 5 / 6) / 2)
    assert found["eval/test/chain/2/pass@1"] == pytest.approx(1 / 8)
    assert found["eval/test/chain/pass@1"] == pytest.approx((3 / 8 + 1 / 8) / 2)  # every difficulty weighs the same
    assert found["eval/test/chain/1/tasks"] == found["eval/test/chain/2/tasks"] == 2
    assert found["eval/dev/chain/1/pass@1"] == 1 and isnan(found["eval/dev/chain/1/pass@2"])


def test_answers_that_nobody_could_judge_are_left_out() -> None:
    found = scores([judged("kwee"), judged("eeee"), judged("ke")], ks=(1, 2))
    assert found["eval/test/chain/1/pass@1"] == pytest.approx((1 / 2 + 1) / 2)
    assert found["eval/test/chain/1/pass@2"] == 1  # of the first task alone
    assert found["eval/test/chain/1/tasks"] == 3


@pytest.mark.filterwarnings("error")
def test_nothing_judged_is_no_score_and_no_warning() -> None:
    found = scores([judged("e")])
    assert isnan(found["eval/test/chain/1/pass@1"]) and isnan(found["eval/test/chain/pass@1"])
    assert scores([]) == {}


def make_run(floor: float = 0.05) -> Run:
    run = small_run("rlvr", Path("no-model"))
    return replace(run, envs={"chain": EnvChoice(difficulties=(1, 2, 3))}, objective=Objective(floor=floor))


CHAIN = {"chain": envs.make("chain")}


def names(weights: dict[str, float]) -> dict[int, float]:
    return {int(name.rsplit("/", 1)[1]): w for name, w in weights.items()}


def test_next_objective_by_hand() -> None:
    # 4 p (1 - p) = .36, 1, 0; their mean 1.36 / 3.
    found = names(next_objective(make_run(), CHAIN, {"chain/1": 0.9, "chain/2": 0.5, "chain/3": 0.0}))
    mean = 1.36 / 3
    assert found == pytest.approx({1: 0.05 + 0.36 / mean, 2: 0.05 + 1 / mean, 3: 0.05})
    # Unknown counts as one half; where nothing can be learnt, all weigh the same.
    found = names(next_objective(make_run(), CHAIN, {"chain/1": 1.0, "chain/3": 0.0}))
    assert found == pytest.approx({1: 0.05, 2: 3.05, 3: 0.05})
    mastered = next_objective(make_run(), CHAIN, {f"chain/{d}": 1.0 for d in (1, 2, 3)})
    assert names(mastered) == {d: 1.05 for d in (1, 2, 3)}


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3), st.floats(0.01, 1))
def test_no_difficulty_is_forgotten(rates: list[float], floor: float) -> None:
    weights = next_objective(make_run(floor), CHAIN, {f"chain/{d}": p for d, p in enumerate(rates, 1)})
    assert len(weights) == 3 and min(weights.values()) >= floor
    assert np.mean(list(weights.values())) == pytest.approx(1 + floor)


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_the_objective_reads_dev_alone(altered: list[float]) -> None:
    found = scores([judged("kkww", difficulty=d, split=s) for s in ("dev", "test") for d in (1, 2, 3)])
    other = found | {f"eval/test/chain/{d}/pass@1": p for d, p in enumerate(altered, 1)}
    assert set(other) == set(found)
    assert dev_solve_rates(found) == dev_solve_rates(other) == {f"chain/{d}": 0.5 for d in (1, 2, 3)}


def test_a_difficulty_without_a_dev_score_is_unknown() -> None:
    assert dev_solve_rates(scores([judged("e", split="dev"), judged("k", split="dev", difficulty=2)])) == {"chain/2": 1}


def test_moving_solve_rates_by_hand() -> None:
    first = moving_solve_rates({}, [judged("kwww"), judged("kkkw"), judged("e", difficulty=2)], decay=0.9)
    assert first == {"chain/1": 0.5}  # the first estimate is the mean itself; the unjudged count for nothing
    after = moving_solve_rates(first, [judged("kkkk"), judged("ww", difficulty=2)], decay=0.9)
    assert after == {"chain/1": pytest.approx(0.9 * 0.5 + 0.1), "chain/2": 0.0} and first == {"chain/1": 0.5}
