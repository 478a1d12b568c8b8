"""The conformance kit's check of environments that judge several answers at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from envs.base import Env, Proposable, Task, Verifiable
from envs.junk import JUNK
from envs.promises import Skip, need

T = TypeVar("T")
R = TypeVar("R")

FEW = 4
"""Tasks that are judged."""


def parallel(env: Env, again: Callable[[], Env], tasks: Sequence[Task]) -> str:
    """A fresh environment gives from `spec.parallel` threads what `env` gives one after another.

    Fresh, so that it has nothing remembered. Now the same is asked twice at a time, now one thing beside another.
    """
    threads = env.spec.parallel
    need(threads >= 1, f"spec.parallel must be >= 1, got {threads}")
    if threads == 1:
        raise Skip("judges one answer at a time")
    fresh = again()
    if not isinstance(env, Verifiable) or not isinstance(fresh, Verifiable):
        raise Skip("no verify()")
    few = tasks[:: max(1, len(tasks) // FEW)]
    asked = [(task, text) for task in few for text in (env.gold(task) or "", env.gold(task) or "", JUNK[2])]
    got = _side_by_side(lambda pair: fresh.verify(*pair), asked, threads)
    for (task, text), verdict in zip(asked, got, strict=True):
        alone = env.verify(task, text)
        need(verdict == alone, f"{text[:24]!a} of {task.content[:80]!r} gets {verdict} among others, {alone} alone")
    if not isinstance(env, Proposable) or not isinstance(fresh, Proposable):
        return f"{len(asked)} verdicts are the same from {threads} threads"
    offers = [(task.mode, env.offer(task)) for task in (*few, few[-1])]
    for offer, found in zip(offers, _side_by_side(lambda o: fresh.admit(*o, (), 0), offers, threads), strict=True):
        need(found == env.admit(*offer, (), 0), f"admit of {offer[1][:80]!r} gives another result among others")
    return f"{len(asked)} verdicts and {len(offers)} admissions are the same from {threads} threads"


def _side_by_side(call: Callable[[T], R], items: Sequence[T], threads: int) -> list[R]:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(call, items))
