"""The actors of a run, as its learner sees them: they get weights by version, and give Groups for units."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from selfplay.actor_processes import start_actors
from selfplay.cluster.base import Cluster
from selfplay.cluster.inprocess import InProcess
from selfplay.cluster.local import LocalCluster
from selfplay.compilations import Compilations
from selfplay.config import Run
from selfplay.joint import Joint, actors_of
from selfplay.records import Group, Unit
from selfplay.refiners.base import Refiner
from selfplay.seats import kept_versions

Spent = dict[str, float]
"""Seconds by what they were spent on, over all units."""


class Crew:
    """Runs units, in the learner's process or in others; opened and closed by the learner."""

    def __init__(self, run: Run, joint: Joint, actors: LocalCluster | None = None) -> None:
        """What is opened first are `actors`, if there are any yet, and then anew each time."""
        self._run, self._joint, self._early = run, joint, actors
        self._compilations, self._elsewhere = Compilations(), 0

    def open(self) -> None:
        """Start the actors."""
        self._cluster = self._opened()

    def close(self) -> None:
        """End every actor."""
        self._cluster.close()

    @property
    def compilations(self) -> int:
        """Programs compiled so far, here and by actors."""
        return self._compilations.count() + self._elsewhere

    # ------------------------------------------------------------ weights

    def introduce(self, policies: Iterable[str], pool: Mapping[int, int], *, newest: int) -> None:
        """Give the actors what they may play as besides the newest weights: every base, and past selves.

        Args:
          pool: kept generation -> its version.
        """
        for name in policies:
            self._cluster.publish(name, 0, self._joint.publish(name, base=True))
        player = self._run.roles["play"].policy
        for generation, version in pool.items():
            if version not in (0, newest):
                self._cluster.publish(player, version, self._joint.past(player, generation))

    def publish(self, *, newest: int, began: int, past: Collection[int]) -> None:
        """The learner's weights as version `newest`; what nobody plays as any more goes. See `seats.kept_versions`."""
        for name in self._run.trained_policies if newest else ():
            self._cluster.publish(name, newest, self._joint.publish(name))
        self._retire(newest, began, past)

    def let_go(self, *, began: int, past: Collection[int]) -> None:
        """All units of a step are back: the weights that were the newest go, unless some role plays them again, so that
        an update has their room."""
        self._retire(None, began, past)

    def _retire(self, newest: int | None, began: int, past: Collection[int]) -> None:
        for name in self._run.trained_policies if newest != 0 else ():
            self._cluster.retire(name, kept_versions(self._run, name, newest=newest, began=began, past=past))

    # ------------------------------------------------------------ units

    def groups(self, units: Sequence[Unit]) -> list[Group]:
        """The groups of some units, in unit order."""
        return self._acquire(units)[0]

    def rounds(self, units: Sequence[Unit], refiner: Refiner) -> tuple[list[Unit], list[Group], Spent]:
        """Run units, and round by round those that the refiner asks for on top; all units, their groups, and times."""
        asked, groups, spent = list(units), list[Group](), Spent()
        while units:
            found, seconds = self._acquire(units)
            groups += found
            _add(spent, seconds)
            units = refiner.follow_ups(self._run, units, found)
            asked += units
        return asked, groups, spent

    def _acquire(self, units: Sequence[Unit]) -> tuple[list[Group], Spent]:
        groups, spent, here = list[Group](), Spent(), Compilations()
        for _, found, timings in self._cluster.run(units):
            groups += found
            _add(spent, timings)
        self._elsewhere += int(spent.get("compilations", 0)) - here.count()
        return groups, spent

    def _opened(self) -> Cluster:
        if (actors := actors_of(self._run)) == 0:
            return InProcess(self._joint.worker())
        cluster, self._early = self._early or start_actors(self._run, actors), None
        cluster.begin(self._joint.worker_spec)
        return cluster


def _add(spent: Spent, more: Mapping[str, float]) -> None:
    for name, seconds in more.items():
        spent[name] = spent.get(name, 0.0) + seconds
