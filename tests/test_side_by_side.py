"""Order and errors are those of one thread."""

from __future__ import annotations

import threading
import time

import pytest

from selfplay.side_by_side import each


@pytest.mark.parametrize("threads", [1, 3])
def test_results_stand_in_the_order_of_the_items(threads: int) -> None:
    def late(item: int) -> tuple[int, bool]:
        time.sleep(0.01 * (3 - item))  # the first ends last
        return item, threading.current_thread() is threading.main_thread()

    assert each(late, range(3), threads=threads) == [(item, threads == 1) for item in range(3)]
    assert each(late, [], threads=threads) == []


@pytest.mark.parametrize("threads", [1, 2])
def test_the_first_error_in_order_is_raised(threads: int) -> None:
    def fail(item: int) -> None:
        time.sleep(0.01 * (1 - item))
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 0"):
        each(fail, range(2), threads=threads)
    assert each(abs, [-1, 2], threads=threads) == [1, 2]  # still of use


def test_as_many_go_on_at_a_time_as_were_asked_for() -> None:
    meet = threading.Barrier(3)
    assert sorted(each(lambda _: meet.wait(timeout=30), range(3), threads=3)) == [0, 1, 2]
