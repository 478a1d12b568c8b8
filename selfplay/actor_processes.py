"""Actor processes of a run. No jax here: they start, and import what they need, while the learner does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from selfplay.cluster.local import LocalCluster
from selfplay.config import Run

ENTRY = "selfplay.actor:make_worker"
"""How a cluster is told to build actors."""


def start_actors(run: Run, actors: int) -> LocalCluster:
    """So many actors, which wait for `begin` to be told what they are made from."""
    plan = run.cluster
    if plan.threads == "auto":
        raise ValueError("cluster.threads is fixed when a run is created")
    return LocalCluster(actors, ENTRY, threads=plan.threads, timeout_s=plan.timeout_s)


@contextmanager
def early_actors(run: Run) -> Iterator[LocalCluster | None]:
    """The actors of a run whose number is known before jax is there; None = `learner.train` starts them, or none."""
    actors = run.cluster.actors
    if actors == "auto" or actors == 0 or run.hosts.processes != 1:
        yield None
        return
    with start_actors(run, actors) as cluster:
        yield cluster
