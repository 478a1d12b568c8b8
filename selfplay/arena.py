"""What a run's games tell at the end of a generation: ratings against others, and the exact distance to equilibrium."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from envs.base import Env, Game
from selfplay.config import Run
from selfplay.evaluate import Acquire
from selfplay.exact_play import ExactPlay, is_exact
from selfplay.game_curves import game_curves, payoff_picture
from selfplay.game_tree import AveragePolicy
from selfplay.models import Model
from selfplay.opponents import Opponents
from selfplay.records import PolicyRef, Trajectory
from selfplay.units import rating_units, sampling, template_of

Ask = Callable[[str, Sequence[Trajectory]], list[np.ndarray]]
"""Policy and trajectories -> log-probabilities under its newest weights, as `Joint.logprobs`."""


class Arena:
    """The games of a run, and of the small ones their trees."""

    def __init__(self, run: Run, envs: Mapping[str, Env], models: Mapping[str, Model]) -> None:
        self._run, self._policy = run, run.roles["play"].policy
        self._games = {name: env for name, env in envs.items() if isinstance(env, Game)}
        template, model = template_of(run, "play"), models[self._policy]
        self._exact = {
            name: ExactPlay(game, model, template, spec)
            for name, game in self._games.items()
            if is_exact(game, model, template, spec := sampling(run, "play", game))
        }

    def average(self, ask: Ask, *, step: int) -> None:
        """Count the newest weights into the average policy of every small game."""
        if step % self._run.evaluate.average_every == 0:
            for exact in self._exact.values():
                exact.average.add(exact.table(partial(ask, self._policy)))

    def rate(
        self, acquire: Acquire, ask: Ask, opponents: Opponents, *, generation: int, step: int, player: PolicyRef
    ) -> dict[str, float]:
        """Have the newest weights meet every scripted player and kept generation; what games tell then.

        Args:
          acquire: runs units.
          opponents: take in the results.
          player: the newest weights.
        """
        units = rating_units(self._run, self._games, opponents, generation=generation, step=step, player=player)
        opponents.record(acquire(units))
        return self.curves(opponents, ask)

    def curves(self, opponents: Opponents, ask: Ask) -> dict[str, float]:
        """`game/<env>/...` of a generation, names as in docs/metrics.md."""
        values: dict[str, float] = {}
        for name, game in self._games.items():
            values |= game_curves(opponents.payoffs(name), opponents.generations(), sorted(game.bots()), env=name)
            if name in self._exact:
                exact = self._exact[name].curves(partial(ask, self._policy))
                values |= {f"game/{name}/{measure}": value for measure, value in exact.items()}
        return values

    def pictures(self, opponents: Opponents) -> dict[str, np.ndarray]:
        """The payoff matrix of every game: [H, W, 3] uint8."""
        return {
            f"game/{name}/payoffs": payoff_picture(
                opponents.payoffs(name), opponents.generations(), sorted(game.bots()), env=name
            )
            for name, game in self._games.items()
        }

    def state(self) -> dict[str, dict[str, Any]]:
        """The sums of the average policies, for a checkpoint."""
        return {name: exact.average.state() for name, exact in self._exact.items()}

    def restore(self, saved: Mapping[str, Mapping[str, Any]]) -> None:
        """Go on from what `state` gave."""
        for name, exact in self._exact.items():
            if name in saved:
                exact.average = AveragePolicy.restored(exact.tree, saved[name])
