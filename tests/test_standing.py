"""What a record says of a task: Wilson's interval by hand, tallies by version in any order, and when a task retires."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as replaced
from test_archive import said

from envs.base import Status
from selfplay.config import Retire
from selfplay.errors import UserError
from selfplay.records import PolicyRef, Trajectory
from selfplay.standing import Standing, Tally, count, standing, wilson

outcomes = st.lists(st.tuples(st.sampled_from(["ok", "wrong", "env_error"]), st.integers(0, 6)), max_size=40)


def attempts(pairs: list[tuple[Status, int]]) -> list[Trajectory]:
    return [said("solve", status, version) for status, version in pairs]


def tally(k: int, n: int, unjudged: int = 0, version: int = 0) -> Tally:
    return Tally(solver=PolicyRef("main", version), attempts=n, solves=k, unjudged=unjudged)


def test_wilson_by_hand() -> None:
    # z^2 = 3.8415: 5 of 10 has centre 6.92073 / 13.84146 = .5 and half width 1.959964 / 13.84146 * sqrt(2.5 + .960365)
    assert wilson(5, 10) == pytest.approx((0.2365931, 0.7634069), abs=1e-6)
    assert wilson(0, 10) == pytest.approx((0.0, 3.841459 / 13.841459), abs=1e-6)  # z^2 / (n + z^2)
    assert wilson(10, 10) == pytest.approx((10 / 13.841459, 1.0), abs=1e-6)
    quoted = {(81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605), (0, 20): (0, 0.1611), (1, 29): (0.0061, 0.1718)}
    for (k, n), interval in quoted.items():  # Newcombe 1998, Statistics in Medicine 17, table I, method 3
        assert wilson(k, n) == pytest.approx(interval, abs=5e-5)
    assert wilson(0, 0) == (0.0, 1.0)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_its_rate_and_mirrors(pair: tuple[int, int]) -> None:
    k, n = pair
    low, high = wilson(k, n)
    assert 0 <= low <= k / n <= high <= 1
    assert wilson(n - k, n) == pytest.approx((1 - high, 1 - low))
    assert wilson(2 * k, 2 * n)[1] - wilson(2 * k, 2 * n)[0] < high - low


@given(outcomes, st.randoms(use_true_random=False), st.integers(1, 4))
def test_tallies_do_not_depend_on_the_order(pairs: list[tuple[Status, int]], rng: object, versions: int) -> None:
    straight: list[Tally] = []
    count(straight, attempts(pairs), versions=versions)
    shuffled = list(pairs)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    cut: list[Tally] = []
    for pair in shuffled:
        count(cut, attempts([pair]), versions=versions)
    assert cut == straight
    kept = sorted({v for _, v in pairs})[-versions:]
    assert [t.solver.version for t in straight] == kept
    for t in straight:
        mine = [s for s, v in pairs if v == t.solver.version]
        assert (t.attempts, t.solves, t.unjudged) == (
            sum(s != "env_error" for s in mine), mine.count("ok"), mine.count("env_error"),
        )  # fmt: skip


def test_policies_of_one_version_are_told_apart() -> None:
    tallies: list[Tally] = []
    other = replaced(said("solve", "wrong", 3), policy=PolicyRef("other", 3))
    count(tallies, [other, said("solve", "ok", 3), other], versions=8)
    assert [(t.solver.policy, t.solves, t.attempts) for t in tallies] == [("main", 1, 1), ("other", 0, 2)]


STANDS: dict[str, tuple[list[Tally], Standing]] = {
    "nothing tried": ([], "live"),
    "35 of 35": ([tally(35, 35)], "mastered"),  # 35 / 38.84 = .901
    "34 of 34": ([tally(34, 34)], "live"),  # .8985
    "0 of 35": ([tally(0, 35)], "impossible"),
    "0 of 34": ([tally(0, 34)], "live"),
    "versions together": ([tally(8, 8, version=v) for v in range(5)], "mastered"),
    "forgotten since": ([tally(8, 8, version=v) for v in range(5)] + [tally(0, 8, version=5)], "live"),
    "half": ([tally(40, 80)], "live"),
    "3 of 8 fail": ([tally(0, 5, 3)], "unstable"),  # .137
    "2 of 8 fail": ([tally(0, 6, 2)], "live"),  # .071
    "fails, though always solved": ([tally(40, 40, 40)], "unstable"),
}


@pytest.mark.parametrize("case", STANDS)
def test_when_a_task_retires(case: str) -> None:
    tallies, expected = STANDS[case]
    assert standing(tallies, Retire()) == expected


def test_each_reason_can_be_switched_off() -> None:
    never = Retire(mastered=1, impossible=0, unstable=1)
    for tallies in ([tally(10**6, 10**6)], [tally(0, 10**6)], [tally(0, 0, 10**6)]):
        assert standing(tallies, Retire()) != "live" and standing(tallies, never) == "live"
    assert standing(list(chain(*(t for t, _ in STANDS.values()))), never) == "live"


@pytest.mark.parametrize(
    ("field", "value"),
    [("versions", 0), ("mastered", 0), ("mastered", 1.1), ("impossible", -0.1), ("impossible", 0.9), ("unstable", 0),
     ("rest", -1)],
)  # fmt: skip
def test_bounds_are_refused_with_their_field(field: str, value: float) -> None:
    with pytest.raises(UserError, match=f"archive.retire.{field} must be"):
        replace(Retire(), **{field: value})
