"""What the game environments share: states that tell each seat what it sees, episodes, and the illegal-move rule.

A game is its rules, a `Position`, and its words, a subclass of `GameEnv`. `form = "compact"` has one character a move
and no preamble; `form = "words"` has the rules first and moves in brackets, for language models.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, Protocol, Self, TypeVar

from envs import options
from envs.base import (
    CHANCE,
    OVER,
    SPLITS,
    Bot,
    EnvSpec,
    EnvUserError,
    Episode,
    IllegalRule,
    Message,
    Split,
    State,
    Task,
    Turn,
    Verdict,
    stable_seed,
)

FORMS = ("compact", "words")
WORDS_TOKENS = 64
COMPACT_TOKENS = 2
"""A move and its end."""
SPIRAL = (-1.5, 0.5)
"""Rewards of the seat that forfeits and of the other, in units of the largest payoff. Source: arXiv:2506.24119."""

_BRACKET = re.compile(r"\[([^\[\]]*)\]")


class Position(Protocol):
    """The rules of a game: where it stands. Immutable."""

    def player(self) -> int:
        """The seat to move, CHANCE or OVER."""

    def moves(self) -> tuple[str, ...]:
        """Legal moves of the seat to move, one character each."""

    def chances(self) -> tuple[tuple[str, float], ...]:
        """Where chance moves: its outcomes and their probabilities."""

    def after(self, move: str) -> Self:
        """The position after a move or an outcome of chance."""

    def returns(self) -> tuple[float, ...]:
        """At the end: the payoff of every seat."""

    def seen(self, seat: int) -> str:
        """What the seat has seen so far, moves and cards in order, its own moves included.

        It only ever grows at its end, its own move by exactly that move, and tells apart all that the seat can.
        """


P = TypeVar("P", bound=Position)


@dataclass(frozen=True)
class GameState(Generic[P]):
    """A position and what each seat has been shown on the way to it."""

    game: GameEnv[P]
    position: P
    views: tuple[tuple[Message, ...], ...]
    """[seats] messages of every seat: one of the user before each own move, and the move itself."""
    told: tuple[int, ...]
    """[seats] characters of `position.seen` that those messages cover."""

    def player(self) -> int:
        return self.position.player()

    @cached_property
    def _actions(self) -> tuple[str, ...]:
        return tuple([self.game.text_of(self.position, move) for move in self.position.moves()])

    def actions(self) -> tuple[str, ...]:
        return self._actions

    def chances(self) -> tuple[tuple[GameState[P], float], ...]:
        return tuple((self.happens(outcome), probability) for outcome, probability in self.position.chances())

    def happens(self, outcome: str) -> GameState[P]:
        """The state after an outcome of chance."""
        return self.game.arrive(self.position.after(outcome), self.views, self.told)

    def after(self, action: str) -> GameState[P]:
        seat, actions = self.player(), self.actions()
        if action not in actions:
            raise ValueError(f"{action!r} is no legal move, expected one of {actions}")
        move = self.position.moves()[actions.index(action)]
        views = _replaced(self.views, seat, (*self.views[seat], Message("assistant", action)))
        told = _replaced(self.told, seat, len(self.position.seen(seat)) + len(move))
        return self.game.arrive(self.position.after(move), views, told)

    def returns(self) -> tuple[float, ...]:
        return self.position.returns()

    def view(self, seat: int) -> tuple[Message, ...]:
        return self.views[seat]

    def information(self, seat: int) -> str:
        return f"{seat}:{self.game.knows(self.position, seat)}"


T = TypeVar("T")


def _replaced(values: tuple[T, ...], at: int, value: T) -> tuple[T, ...]:
    return (*values[:at], value, *values[at + 1 :])


class GameEnv(Generic[P]):
    """Base class of two-player zero-sum games: give the facts below, and `word`, `rules` and `tell` for the words form.

    Args:
      form: "compact" (one character a move, no preamble: exactly that character is a legal move) or "words" (the rules,
        then moves such as [bet]; the last bracket of a text counts, whatever its spaces and case).
      legal: words only: list the legal moves at every turn.
      retries: further tries at an illegal move before the seat forfeits; the exact measures need 0.
      forfeit: rewards of the seat that forfeits and of the other; by default SPIRAL's -1.5 and 0.5 in units of the
        game's largest payoff, so that to forfeit is never better than to lose.
    """

    name: str
    largest: float
    """No payoff is larger."""
    summary: str
    seats = 2
    version = "1"

    def __init__(
        self, *, form: str = "compact", legal: bool = True, retries: int = 0, forfeit: Sequence[float] | None = None
    ) -> None:
        self.form = options.one_of(self.name, "form", form, FORMS)
        self.legal = options.one_of(self.name, "legal", legal, (True, False))
        loser, winner = self._forfeit(forfeit)
        tries = options.whole(self.name, "retries", retries, least=0, most=100)
        self.illegal = IllegalRule(retries=tries, loser=loser, winner=winner)
        words = self.form == "words"
        self.spec = EnvSpec(
            name=self.name,
            version=self.version,
            seats=self.seats,
            reward_range=(min(loser, winner, -self.largest), max(loser, winner, self.largest)),
            zero_sum=True,
            splits=(),
            max_new_tokens=WORDS_TOKENS if words else COMPACT_TOKENS,
            illegal=self.illegal,
            summary=self.summary,
        )

    def _forfeit(self, given: Sequence[float] | None) -> tuple[float, float]:
        if given is None:
            return SPIRAL[0] * self.largest, SPIRAL[1] * self.largest
        pair = list(given) if isinstance(given, (list, tuple)) else []
        if len(pair) != 2 or any(type(v) not in (int, float) or not math.isfinite(v) for v in pair):
            raise EnvUserError(f"{self.name}: option forfeit must be two numbers, loser and winner, got {given!r}")
        return float(pair[0]), float(pair[1])

    def start(self) -> P:
        """The position before anything has happened."""
        raise NotImplementedError(f"{type(self).__name__} must define start()")

    def rules(self, seat: int) -> str:
        """Words form: the rules, as the seat is told them before its first move."""
        raise NotImplementedError(f"{type(self).__name__} must define rules(seat)")

    def tell(self, position: P, seat: int, told: int) -> str:
        """Words form: what `position.seen(seat)[told:]` means."""
        raise NotImplementedError(f"{type(self).__name__} must define tell(position, seat, told)")

    def word(self, position: P, move: str) -> str:
        """Words form: a legal move without its brackets; no two of a position alike."""
        return move

    def knows(self, position: P, seat: int) -> str:
        """What tells the information states of a seat apart."""
        return position.seen(seat)

    def scripted(self) -> Mapping[str, Bot]:
        """Scripted players besides `random`."""
        return {}

    def bots(self) -> Mapping[str, Bot]:
        return {"random": random_bot, **self.scripted()}

    def text_of(self, position: P, move: str) -> str:
        """The text by which a model makes a move."""
        return f"[{self.word(position, move)}]" if self.form == "words" else move

    def root(self) -> GameState[P]:
        return self.arrive(self.start(), ((),) * self.seats, (0,) * self.seats)

    def arrive(self, position: P, views: tuple[tuple[Message, ...], ...], told: tuple[int, ...]) -> GameState[P]:
        """The state of a position; a seat that is to move is told what it has not seen yet."""
        seat = position.player()
        if seat >= 0:
            said = Message("user", self._says(position, seat, told[seat]))
            views = _replaced(views, seat, (*views[seat], said))
        return GameState(self, position, views, told)

    def _says(self, position: P, seat: int, told: int) -> str:
        if self.form == "compact":
            return position.seen(seat)[told:]
        lines = [] if told else [self.rules(seat)]
        lines += [self.tell(position, seat, told)]
        if self.legal:
            moves = " ".join(self.text_of(position, move) for move in position.moves())
            lines += [f"Legal moves: {moves}"]
        return "\n".join(line for line in lines if line)

    def complaint(self, text: str) -> str:
        """What a seat is told after an illegal move, where it may try again."""
        return "That is not a legal move. Try again." if self.form == "words" else "?"

    def parse(self, state: State, text: str) -> str | None:
        """The legal move that a text makes, or None. Compact: the text is a move, and nothing else."""
        actions = state.actions()
        if self.form == "compact":
            return text if text in actions else None
        found = _BRACKET.findall(text)
        written = f"[{' '.join(found[-1].split())}]" if found else ""
        same = [action for action in actions if action.casefold() == written.casefold()]
        return written if written in actions else same[0] if len(same) == 1 else None

    def size(self, split: Split) -> int | None:
        return None

    def task(
        self, split: Split, index: int, seed: int, *, mode: str | None = None, difficulty: int | None = None
    ) -> Task:
        """One deal. Games hold nothing out: the split is part of the draw, and no more."""
        mode, _ = options.place(self.spec, split, index, mode, difficulty, splits=SPLITS)
        source = stable_seed(self.name, split, index, seed)
        deal = self.deal(source)
        return Task(
            env=self.name,
            env_version=self.spec.version,
            split=split,
            seed=source,
            index=index,
            mode=mode,
            difficulty=1,
            prompt=(),
            payload={},
            content=deal,
            family=deal,
        )

    def deal(self, seed: int) -> str:
        """Names all that chance decides, where that does not depend on the moves: the same name, the same deal."""
        rng, outcomes, position = random.Random(seed), [], self.start()
        while (player := position.player()) != OVER:
            step = drawn(position, rng) if player == CHANCE else position.moves()[0]
            outcomes += [step] if player == CHANCE else []
            position = position.after(step)
        return " ".join(outcomes) or "the only deal"

    def open(self, task: Task) -> Episode:
        return Play(self, task)


class Play(Generic[P]):
    """The episode of a game: a walk over its states, where the task's seed decides for chance."""

    def __init__(self, game: GameEnv[P], task: Task) -> None:
        self._game, self._rng = game, random.Random(task.seed)
        self._state = self._settled(game.root())
        self._shown = [0] * game.seats
        """Messages of its view that each seat has been shown or has written."""
        self._complaints: tuple[Message, ...] = ()
        self._tries = 0
        self._loser: int | None = None

    @property
    def state(self) -> GameState[P]:
        """Where the game stands."""
        return self._state

    def _mover(self) -> int:
        return OVER if self._loser is not None else self._state.player()

    def turn(self) -> Turn | None:
        seat = self._mover()
        if seat < 0:
            return None
        return Turn(
            seat=seat,
            new_messages=self._complaints or self._state.view(seat)[self._shown[seat] :],
            legal=self._state.actions(),
        )

    def act(self, seat: int, text: str) -> None:
        mover = self._mover()
        if mover < 0 or seat != mover:
            raise ValueError(f"seat {seat} cannot act: it is {'nobody' if mover < 0 else f'seat {mover}'}'s turn")
        action = self._game.parse(self._state, text)
        if action is None:
            self._refuse(seat, text)
            return
        self._shown[seat] = len(self._state.view(seat)) + 1
        self._complaints, self._tries = (), 0
        self._state = self._settled(self._state.after(action))

    def verdicts(self) -> tuple[Verdict, ...]:
        """Status `ok` for a seat that kept to the rules, whoever won; `illegal` for one that forfeited."""
        if self._mover() >= 0:
            raise ValueError("the game is not over")
        rule = self._game.illegal
        if self._loser is not None:
            return tuple(
                Verdict(rule.loser, "illegal") if seat == self._loser else Verdict(rule.winner, "ok")
                for seat in range(self._game.seats)
            )
        return tuple(Verdict(reward, "ok") for reward in self._state.returns())

    def close(self) -> None:
        return None

    def _refuse(self, seat: int, text: str) -> None:
        """One more try, or the end."""
        self._tries += 1
        self._complaints = (Message("user", self._game.complaint(text)),)
        if self._tries > self._game.illegal.retries:
            self._loser = seat

    def _settled(self, state: GameState[P]) -> GameState[P]:
        """The next state in which a seat is to move, or the end."""
        while state.player() == CHANCE:
            state = state.happens(drawn(state.position, self._rng))
        return state


def drawn(position: Position, rng: random.Random) -> str:
    """An outcome of chance; takes one number from the generator, whatever the outcomes."""
    outcomes, weights = zip(*position.chances(), strict=True)
    return str(rng.choices(outcomes, weights)[0])


def random_bot(state: State, rng: random.Random) -> str:
    """Every legal move alike."""
    return rng.choice(state.actions())
