"""Kuhn poker with one broken promise each."""

from __future__ import annotations

import os

from envs.base import Episode, IllegalRule, Message, State, Task, Turn, Verdict
from envs.games import GameState, Play
from envs.kuhn import Hand, Kuhn


class OwnChance(Kuhn):
    """The deal is the process's."""

    def open(self, task: Task) -> Episode:
        seed = int(os.environ.get("PYTHONHASHSEED", "0").replace("random", "0"))
        task = Task(**{**{f: getattr(task, f) for f in task.__struct_fields__}, "seed": task.seed + seed})
        return Play(self, task)


class _TellingAgain(Play[Hand]):
    def turn(self) -> Turn | None:
        turn = super().turn()
        if turn is None:
            return None
        return Turn(seat=turn.seat, new_messages=self._state.view(turn.seat), legal=turn.legal)


class TellsAgain(Kuhn):
    """Every turn brings the whole view again."""

    def open(self, task: Task) -> Episode:
        return _TellingAgain(self, task)


class Forgets(Kuhn):
    """A seat's own moves vanish from its view."""

    def arrive(self, position: Hand, views: tuple[tuple[Message, ...], ...], told: tuple[int, ...]) -> GameState[Hand]:
        kept = tuple(tuple(m for m in view if m.role == "user")[-1:] for view in views)
        return super().arrive(position, kept if len(position.line) > 1 else views, told)


class ShowsTheOtherCard(Kuhn):
    """The prompt says what the seat does not know, and its information state does not."""

    def _says(self, position: Hand, seat: int, told: int) -> str:
        return position.cards + super()._says(position, seat, told)


class HidesTheCard(Kuhn):
    """The prompt does not say what the seat knows."""

    def _says(self, position: Hand, seat: int, told: int) -> str:
        return "?" + position.line


class LegalTwice(Kuhn):
    def word(self, position: Hand, move: str) -> str:
        return "move"

    def __init__(self) -> None:
        super().__init__(form="words")


class _Odd(Hand):
    def chances(self) -> tuple[tuple[str, float], ...]:
        return tuple((cards, 0.15) for cards, _ in super().chances())


class OddChance(Kuhn):
    def start(self) -> Hand:
        return _Odd()


class _PayingTwice(Play[Hand]):
    def verdicts(self) -> tuple[Verdict, ...]:
        return tuple(Verdict(v.reward / 2, v.status) for v in super().verdicts())


class PaysTwice(Kuhn):
    def open(self, task: Task) -> Episode:
        return _PayingTwice(self, task)


class Lenient(Kuhn):
    """What is no move is a pass."""

    def parse(self, state: State, text: str) -> str | None:
        return super().parse(state, text) or state.actions()[0]


class ChokesOnJunk(Kuhn):
    def parse(self, state: State, text: str) -> str | None:
        return text if text[0] in state.actions() else None


class WrongForfeit(Kuhn):
    """The spec says another price than the game takes."""

    def __init__(self) -> None:
        super().__init__(forfeit=[-1.0, 0.0])
        self.spec = _with_rule(self, IllegalRule(loser=-2.0, winner=0.0))


class NoSecondTry(Kuhn):
    def __init__(self) -> None:
        super().__init__()
        self.spec = _with_rule(self, IllegalRule(retries=2, loser=-3.0, winner=1.0))


def _with_rule(game: Kuhn, rule: IllegalRule) -> object:
    import msgspec

    return msgspec.structs.replace(game.spec, illegal=rule)
