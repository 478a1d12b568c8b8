"""One episode at the table: who sits where, whose turn it is, and how it ended."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from envs.base import Bot, Env, EnvError, Episode, Game, State, Task, Turn, Verdict
from selfplay.records import Player


@dataclass
class Match:
    """One episode, and whose turn it is."""

    index: int
    """row * attempts + attempt."""
    task: Task
    players: tuple[Player, ...]
    episode: Episode | None = None
    turn: Turn | None = None
    verdicts: tuple[Verdict, ...] = ()
    """One a seat, once it is over."""
    moves: int = 0

    @property
    def over(self) -> bool:
        return bool(self.verdicts)

    def begin(self, env: Env) -> None:
        """Open the episode and look at its first turn."""
        try:
            self.episode = env.open(self.task)
        except EnvError as error:
            self.fail(error)
            return
        self._look()

    def act(self, seat: int, text: str) -> None:
        """Take a move, and look at the next turn or the verdicts."""
        self.moves += 1
        try:
            self.playing.act(seat, text)
        except EnvError as error:
            self.fail(error)
            return
        self._look()

    def fail(self, error: EnvError | None = None) -> None:
        """The episode cannot go on: no seat is judged."""
        parts = {"error": 1.0} if error is not None and str(error) else {}
        self.verdicts = (Verdict(0.0, "env_error", parts),) * len(self.players)
        self._close()

    @property
    def mover(self) -> tuple[Player, int]:
        """Who is to move, and at which seat."""
        if self.turn is None:
            raise ValueError("nobody is to move: the episode has not begun, or is over")
        return self.players[self.turn.seat], self.turn.seat

    @property
    def playing(self) -> Episode:
        """The episode, while it lasts."""
        if self.episode is None:
            raise ValueError("the episode has not begun, or is over")
        return self.episode

    def _look(self) -> None:
        try:
            self.turn = self.playing.turn()
            if self.turn is None:
                self.verdicts = self.playing.verdicts()
        except EnvError as error:
            self.fail(error)
            return
        if self.over:
            self._close()

    def _close(self) -> None:
        self.turn = None
        if self.episode is not None:
            self.episode.close()
        self.episode = None


def bots_of(env: Env) -> Mapping[str, Bot]:
    """The scripted players of a game, by name; none of what is no game."""
    return env.bots() if isinstance(env, Game) else {}


def bot_move(bots: Mapping[str, Bot], episode: Episode, bot: str, rng: random.Random) -> str:
    """The move of a scripted player, one of the `bots_of` the episode's environment."""
    state: State | None = getattr(episode, "state", None)  # isinstance(GameEpisode) takes longer than the move
    if state is None or bot not in bots:
        raise EnvError(f"there is no scripted player {bot!r} for {type(episode).__name__}")
    return bots[bot](state, rng)
