"""What runs units: the cluster that the learner sees, and the worker that each actor is.

The cluster is given its worker by the name of a function (`module:function`) and a plain spec, so that it needs to
know nothing of sampling or environments, and nothing but plain data crosses a process border.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

from selfplay.records import Group, PolicyRef, Unit

Params = Mapping[str, Any]
"""A nested dict of arrays; keys are strings."""
Timings = dict[str, float]
"""Seconds by what they were spent on, `run_s` always, and counts by what was counted."""
Result = tuple[Unit, list[Group], Timings]


class Worker(Protocol):
    """One actor's work. What `run` returns is a function of the unit and the versions that it names."""

    def load(self, ref: PolicyRef, params: Params) -> None:
        """Take a version; it stays until dropped. The arrays are read-only."""

    def drop(self, ref: PolicyRef) -> None:
        """Forget a version."""

    def run(self, unit: Unit) -> tuple[list[Group], Timings]:
        """The groups of a unit, and seconds by name."""


class Cluster(Protocol):
    """Workers with published weights.

    Lease rule: arrays given to `publish` belong to the cluster until `retire` or `close`; an in-process worker uses
    them as they are, so the update must not donate them.
    """

    def publish(self, policy: str, version: int, params: Params) -> None:
        """Make a version available to every worker. A published version never changes."""

    def retire(self, policy: str, keep_versions: Collection[int]) -> None:
        """Drop the versions of a policy that are not to be kept."""

    def run(self, units: Sequence[Unit]) -> Iterator[Result]:
        """Run units, in parallel where there are several workers, and yield their groups in the order given.

        Raises:
          ValueError: a unit names a version that is not published.
          ActorError: an actor died, failed, or gave no answer in time; the cluster is closed then.
        """

    def close(self) -> None:
        """End every worker and free what they held; may be called again."""


def build_worker(entry: str, spec: Mapping[str, Any]) -> Worker:
    """The worker that `module:function` makes of a spec."""
    module, _, name = entry.partition(":")
    if not name:
        raise ValueError(f"a worker entry is module:function, got {entry!r}")
    make: Callable[[Mapping[str, Any]], Worker] = getattr(importlib.import_module(module), name)
    return make(spec)


def check_refs(units: Sequence[Unit], published: Collection[PolicyRef]) -> None:
    """Every version that the units name must be there."""
    for unit in units:
        players = {p: PolicyRef(p.policy, p.version) for line_up in unit.players for p in line_up if p.policy}
        for role, ref in (*unit.seats.items(), *(("play", ref) for ref in players.values())):
            if ref not in published:
                raise ValueError(
                    f"unit {unit.index} of step {unit.step} seats {ref.policy}@{ref.version} as {role}: not published"
                )
