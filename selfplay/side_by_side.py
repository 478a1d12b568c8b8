"""Slow calls side by side, in threads: the verdicts of an environment that can give several at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def each(call: Callable[[T], R], items: Iterable[T], *, threads: int) -> list[R]:
    """What a call gives of every item, in their order, whichever ends first; the first error in that order is raised.

    Args:
      threads: as many calls go on at a time; 1 = one after another, in this thread.
    """
    if threads == 1:
        return [call(item) for item in items]
    return list(_pool(threads).map(call, items))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Kept open: one a process and size."""
    return ThreadPoolExecutor(threads, thread_name_prefix="side-by-side")
