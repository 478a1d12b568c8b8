"""The opponents of a run: past selves that are kept, who meets whom, and how they fared against each other.

A past self is the version that ended a generation, and is named by that generation. Opponents come from keyed draws and
results are taken in unit order, so pool, ratings and payoff matrix are the same whoever played; they are part of the
generation checkpoint.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import msgspec

from selfplay import config
from selfplay.config import OpponentKind
from selfplay.errors import CheckpointError, UserError, nearest
from selfplay.payoffs import Payoffs
from selfplay.records import Group, Player, PolicyRef

FORMAT = 1
"""Version of what `state` gives."""

DECAY = 0.9
"""What an earlier step's games count for when past selves are prioritised: the newest weights change."""

LineUp = tuple[Player, ...]
"""Who sits where: seat -> player."""


class Form(msgspec.Struct):
    """How the newest weights fared against one opponent of late; older games count less and less."""

    points: float = 0.0
    """A win 1, a draw 1/2."""
    games: float = 0.0

    @property
    def win_rate(self) -> float:
        """Share of points; one half for an opponent that was not met."""
        return self.points / self.games if self.games else 0.5


class Saved(msgspec.Struct, kw_only=True):
    """All that a checkpoint holds of the opponents."""

    format: int
    pool: dict[int, int]
    """Generation -> its version, oldest first."""
    payoffs: dict[str, Payoffs]
    """By environment: exact versions against one another and against bots."""
    form: dict[str, dict[str, Form]]
    """By environment and opponent."""


class Opponents:
    """Past generations that are kept as opponents, and the results of all that was played."""

    def __init__(self, settings: config.Opponents) -> None:
        self._settings = settings
        self._pool: dict[int, int] = {}
        self._payoffs: dict[str, Payoffs] = {}
        self._form: dict[str, dict[str, Form]] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Opponents) and self.state() == other.state()

    # ------------------------------------------------------------ the pool

    def remember(self, version: int, generation: int) -> None:
        """Keep the version that ended a generation, and let one go where the pool is full.

        Raises:
          ValueError: a generation that is not newer than the kept ones.
        """
        if self._pool and generation <= max(self._pool):
            raise ValueError(f"generation {generation} is not newer than {max(self._pool)}")
        self._pool[generation] = version
        kept = sorted(self._pool)
        spare = [g for g in kept[:-1] if g != 0 and g not in self._settings.fixed]
        if len(spare) <= self._settings.pool:
            return
        gone = _most_crowded(spare, kept)
        del self._pool[gone]
        for payoffs in self._payoffs.values():
            payoffs.forget(str(gone))
        for form in self._form.values():
            form.pop(str(gone), None)

    def generations(self) -> list[int]:
        """Those that are kept, oldest first: their checkpoints are exempt from retention."""
        return sorted(self._pool)

    def versions(self) -> set[int]:
        """Versions that must stay loadable."""
        return set(self._pool.values())

    def pool(self) -> dict[int, int]:
        """Kept generation -> its version, oldest first."""
        return dict(self._pool)

    # ------------------------------------------------------------ who meets whom

    def line_ups(
        self, rows: int, rng: random.Random, now: PolicyRef, *, env: str, seats: int = 2
    ) -> tuple[LineUp, ...]:
        """Opponents by the mix, one line-up a row.

        In row r the newest weights sit at seat r mod `seats`, and `seats` rows in a row meet the same opponent: each
        opponent is met from all seats alike. A kind that has nobody yet leaves its weight to the others; where none has
        anybody, the newest weights meet themselves.

        Args:
          rng: of this unit's path on the stream MATCH.
          now: the newest weights.
          env: whose results prioritise.
        """
        opponents = [self._draw(rng, now, env) for _ in range(-(-rows // seats))]
        return tuple(_seated(now, opponents[row // seats], row % seats, seats) for row in range(rows))

    def rating_line_ups(
        self, now: PolicyRef, *, bots: Collection[str], games: int, seats: int = 2
    ) -> tuple[LineUp, ...]:
        """Games that measure the newest weights: `games` against each kept generation, themselves and each bot.

        Args:
          games: a multiple of `seats`, so that seats are balanced.
        """
        if games < 1 or games % seats:
            raise ValueError(f"games must be a multiple of {seats} seats, got {games}")
        past = [Player(policy=now.policy, version=v) for v in self._pool.values() if v != now.version]
        opponents = [*past, _player(now), *(Player(bot=bot) for bot in sorted(bots))]
        return tuple(_seated(now, other, row % seats, seats) for other in opponents for row in range(games))

    def _draw(self, rng: random.Random, now: PolicyRef, env: str) -> Player:
        past = [g for g, version in self._pool.items() if version != now.version]
        fixed = [g for g in self._settings.fixed if g in self._pool]
        there = {"latest": True, "uniform": past, "prioritised": past, "fixed": fixed, "bot": True}
        mix = {kind: w for kind, w in self._settings.mix.items() if w > 0 and there[kind]}
        kind: OpponentKind = rng.choices(list(mix), list(mix.values()))[0] if mix else "latest"
        if kind == "bot":
            bots = self._settings.bots
            return Player(bot=rng.choices(list(bots), list(bots.values()))[0])
        if kind == "latest":
            return _player(now)
        drawn = DRAWS[kind](rng, fixed if kind == "fixed" else past, self.win_rates(env), self._settings.exponent)
        return Player(policy=now.policy, version=self._pool[drawn])

    def win_rates(self, env: str) -> dict[int, float]:
        """Share of points that the newest weights won of late against each kept generation."""
        form = self._form.get(env, {})
        return {g: form.get(str(g), Form()).win_rate for g in self._pool}

    # ------------------------------------------------------------ results

    def payoffs(self, env: str) -> Payoffs:
        """The payoff matrix of an environment."""
        return self._payoffs.get(env, Payoffs())

    def record(self, groups: Iterable[Group]) -> None:
        """Take in a step's games, in unit order.

        The payoff matrix counts those between kept versions, and with bots. Games of other versions, the ones within a
        generation, only say which past selves are still hard to beat.
        """
        played = [(group, payoff) for group in groups if group.players for payoff in _payoffs(group)]
        for env in dict.fromkeys(group.env for group, _ in played):
            for form in self._form.get(env, {}).values():
                form.points, form.games = DECAY * form.points, DECAY * form.games
        for group, payoff in played:
            labels = [self._label(player) for player in group.players]
            first, second = labels
            if first and second:
                self._payoffs.setdefault(group.env, Payoffs()).add(first, second, payoff)
            for seat, other in enumerate(reversed(labels)):
                if other and self._is_newest(group.players[seat]) and group.players[0] != group.players[1]:
                    form = self._form.setdefault(group.env, {}).setdefault(other, Form())
                    won = payoff if seat == 0 else -payoff
                    form.points, form.games = form.points + (0.5 if won == 0 else won > 0), form.games + 1

    def _label(self, player: Player) -> str:
        """The name of a kept player; the empty text for a version within a generation."""
        if player.bot:
            return player.bot
        return next((str(g) for g, version in self._pool.items() if version == player.version), "")

    def _is_newest(self, player: Player) -> bool:
        """Whether a player is the newest weights: no older than the last kept generation."""
        return bool(player.policy) and player.version >= max(self._pool.values(), default=0)

    # ------------------------------------------------------------ save and restore

    def state(self) -> Saved:
        """Plain data for the checkpoint, bounded by the pool and the bots."""
        return Saved(format=FORMAT, pool=self._pool, payoffs=self._payoffs, form=self._form)

    def restore(self, saved: Saved) -> None:
        """Go on from what `state` gave.

        Raises:
          CheckpointError: it was written in another format.
        """
        if saved.format != FORMAT:
            raise CheckpointError(
                f"the opponents are of format {saved.format}, this code reads {FORMAT}: start a new run, "
                "or use the version of selfplay that wrote them"
            )
        self._pool, self._payoffs, self._form = saved.pool, saved.payoffs, saved.form


def _uniform(rng: random.Random, past: Sequence[int], win_rates: Mapping[int, float], exponent: float) -> int:
    """All alike."""
    return rng.choice(past)


def _prioritised(rng: random.Random, past: Sequence[int], win_rates: Mapping[int, float], exponent: float) -> int:
    """By (1 - win rate)^exponent; all alike where every one of them is always beaten.

    Source: prioritised fictitious self-play with f_hard, AlphaStar, Vinyals et al. 2019, Nature 575.
    """
    weights = [(1 - win_rates[g]) ** exponent for g in past]
    return rng.choices(past, weights if sum(weights) > 0 else None)[0]


DRAWS: dict[OpponentKind, Callable[[random.Random, Sequence[int], Mapping[int, float], float], int]] = {
    "uniform": _uniform,
    "prioritised": _prioritised,
    "fixed": _uniform,
}
"""How a past generation is drawn from those that a kind has."""


def check_opponents(settings: config.Opponents, bots: Mapping[str, Collection[str]]) -> None:
    """Refuse a scripted opponent that some environment lacks.

    Args:
      bots: the names of each environment's scripted players.

    Raises:
      UserError: naming the environment, and the bots that it has.
    """
    for env, names in bots.items():
        unknown = [bot for bot in settings.bots if bot not in names]
        if settings.drawn("bot") and unknown:
            raise UserError(f"opponents.bots: environment {env} has no {unknown[0]!r}; {nearest(unknown[0], names)}")


def _player(ref: PolicyRef) -> Player:
    return Player(policy=ref.policy, version=ref.version)


def _seated(now: PolicyRef, other: Player, seat: int, seats: int) -> LineUp:
    """The newest weights at one seat, the other player at all others."""
    return tuple(_player(now) if s == seat else other for s in range(seats))


def _most_crowded(spare: Sequence[int], kept: Sequence[int]) -> int:
    """The generation whose two neighbours are closest to each other, the oldest such one."""
    place = {g: i for i, g in enumerate(kept)}
    return min(spare, key=lambda g: (kept[place[g] + 1] - kept[max(place[g] - 1, 0)], g))


def _payoffs(group: Group) -> Iterator[float]:
    """The first seat's payoff in every game of a two-seat group, in order; games that nobody could judge are left out.

    Half the difference of the rewards: the reward itself in zero-sum play, and fair to both where a seat forfeits.
    """
    for game in group.games:
        first, second = game.verdicts
        if "env_error" not in (first.status, second.status):
            yield (first.reward - second.reward) / 2
