"""`openspiel`: any two-player, sequential, zero-sum game of OpenSpiel, by its name; needs the extra `games`.

Words form only: at every turn a seat is shown OpenSpiel's own text of the game as the seat sees it, and the legal
moves. Source: Lanctot et al. 2019, OpenSpiel, arXiv:1908.09453.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from typing import Any

from envs.base import CHANCE, OVER, EnvUserError, nearest
from envs.games import GameEnv

ONLY_DEAL = "the only deal"


@dataclass(frozen=True)
class Spiel:
    """A position: OpenSpiel's state, never changed once it is here, and what each seat was shown on the way."""

    state: Any = field(repr=False)
    shown: tuple[str, str] = ("", "")

    def player(self) -> int:
        if self.state.is_terminal():
            return OVER
        return CHANCE if self.state.is_chance_node() else int(self.state.current_player())

    @cached_property
    def actions(self) -> dict[str, int]:
        """Text of each legal move -> OpenSpiel's action; texts that two actions share get the action's number."""
        player = self.state.current_player()
        texts = {action: _plain(self.state.action_to_string(player, action)) for action in self.state.legal_actions()}
        count = Counter(text.casefold() for text in texts.values())
        return {text if count[text.casefold()] == 1 else f"{text} #{action}": action for action, text in texts.items()}

    def moves(self) -> tuple[str, ...]:
        return tuple(self.actions)

    def chances(self) -> tuple[tuple[str, float], ...]:
        return tuple((str(outcome), float(probability)) for outcome, probability in self.state.chance_outcomes())

    def after(self, move: str) -> Spiel:
        player = self.player()
        following = self.state.clone()
        following.apply_action(int(move) if player == CHANCE else self.actions[move])
        shown = self.shown if player == CHANCE else _with(self.shown, player, move)
        return arrived(following, shown)

    def returns(self) -> tuple[float, ...]:
        return tuple(float(payoff) for payoff in self.state.returns())

    def seen(self, seat: int) -> str:
        return self.shown[seat]


def arrived(state: Any, shown: tuple[str, str]) -> Spiel:
    """The position of a state; the seat to move is shown the game as it sees it."""
    position = Spiel(state, shown)
    seat = position.player()
    return position if seat < 0 else Spiel(state, _with(shown, seat, _sight(state, seat)))


def _with(shown: tuple[str, str], seat: int, text: str) -> tuple[str, str]:
    return (shown[0] + text, shown[1]) if seat == 0 else (shown[0], shown[1] + text)


def _sight(state: Any, seat: int) -> str:
    """The board where all is open; else all that the seat knows."""
    kind = state.get_game().get_type()
    is_open = kind.information == type(kind.information).PERFECT_INFORMATION
    if kind.provides_observation_string and (is_open or not kind.provides_information_state_string):
        return str(state.observation_string(seat))
    return str(state.information_state_string(seat))


def _plain(text: str) -> str:
    """A move's text as it can stand in brackets."""
    return " ".join(text.replace("[", "(").replace("]", ")").split())


class OpenSpiel(GameEnv[Spiel]):
    """A game of OpenSpiel.

    Args:
      game: its name, with parameters where needed: "kuhn_poker", "connect_four(rows=5,columns=5)".
      preamble: what a seat is told before its first move; by default the game's name and how to write a move.
      legal, retries, forfeit: as in `envs.games.GameEnv`.
    """

    name = "openspiel"
    summary = "any two-player, sequential, zero-sum game of OpenSpiel: game = its name"

    def __init__(
        self,
        *,
        game: str,
        preamble: str = "",
        legal: bool = True,
        retries: int = 0,
        forfeit: Sequence[float] | None = None,
    ) -> None:
        self.game = _loaded(game)
        self.title = str(self.game.get_type().long_name)
        self.preamble = preamble
        self.largest = max(abs(float(self.game.min_utility())), abs(float(self.game.max_utility())))
        self.version = f"1, open_spiel {version('open_spiel')}"
        super().__init__(form="words", legal=legal, retries=retries, forfeit=forfeit)

    def start(self) -> Spiel:
        return arrived(self.game.new_initial_state(), ("", ""))

    def rules(self, seat: int) -> str:
        told = self.preamble or f"You play {self.title}. Write one legal move in brackets."
        return f"{told}\nYou are player {seat}."

    def tell(self, position: Spiel, seat: int, told: int) -> str:
        return position.seen(seat)[told:].rstrip()

    def knows(self, position: Spiel, seat: int) -> str:
        if self.game.get_type().provides_information_state_string:
            return str(position.state.information_state_string(seat))
        return position.seen(seat)

    def deal(self, seed: int) -> str:
        """The seed itself, as what chance may do depends on the moves in many games."""
        kind = self.game.get_type()
        fixed = kind.chance_mode == type(kind.chance_mode).DETERMINISTIC
        return f"{self.game}: {ONLY_DEAL if fixed else seed}"


def _loaded(name: str) -> Any:
    """OpenSpiel's game of that name, if it is one that can be played here."""
    try:
        import pyspiel
    except ImportError as error:
        raise EnvUserError("openspiel: OpenSpiel is not installed: pip install 'selfplay[games]'") from error
    known = pyspiel.registered_names()
    short = str(name).partition("(")[0]
    if short not in known:
        raise EnvUserError(f"openspiel: OpenSpiel has no game {short!r}; {nearest(short, known)}")
    try:
        game = pyspiel.load_game(name)
    except (pyspiel.SpielError, ValueError) as error:
        raise EnvUserError(f"openspiel: game {name!r} cannot be made: {' '.join(str(error).split())[:200]}") from error
    _fits(pyspiel, name, game)
    return game


def _fits(pyspiel: Any, name: str, game: Any) -> None:
    """Refuse a game that is not two-player, sequential, zero-sum, with chance and texts that can be used."""
    kind, types = game.get_type(), pyspiel.GameType
    complaints = {
        f"it has {game.num_players()} players, expected 2": game.num_players() != 2,
        f"it is {_word(kind.dynamics)}, expected sequential": kind.dynamics != types.Dynamics.SEQUENTIAL,
        f"its payoffs are {_word(kind.utility)}, expected zero sum": kind.utility != types.Utility.ZERO_SUM,
        "its chance is drawn inside OpenSpiel": kind.chance_mode == types.ChanceMode.SAMPLED_STOCHASTIC,
        "it has no text of what a player sees": not (
            kind.provides_information_state_string or kind.provides_observation_string
        ),
    }
    for complaint, holds in complaints.items():
        if holds:
            raise EnvUserError(f"openspiel: game {name!r} does not fit: {complaint}")


def _word(kind: Any) -> str:
    """`Dynamics.SIMULTANEOUS` as it is read: simultaneous."""
    return str(kind).rpartition(".")[2].replace("_", " ").lower()
