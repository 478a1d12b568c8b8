"""What an environment is: tasks, verdicts, and the interfaces that a self-play run talks to.

Plain Python: an environment never sees a token, an array or the trainer. It states a task, derives the
truth itself, and judges text. Everything random in it comes from `Task.seed`.
"""

from __future__ import annotations

import difflib
import hashlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, cached_property
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import msgspec

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

Status = Literal["ok", "wrong", "unparsed", "illegal", "timeout", "env_error"]
STATUSES: tuple[Status, ...] = get_args(Status)

Origin = Literal["procedural", "dataset", "proposed"]

Reason = Literal["format", "bounds", "safety", "executes", "deterministic", "guessable", "answer_in_prompt", "held_out"]
REASONS: tuple[Reason, ...] = get_args(Reason)
"""Why a proposal is turned down, in the order in which `admit` checks."""


class EnvError(Exception):
    """The environment itself failed (never the model's text): masked out of the loss and counted."""


class EnvUserError(Exception):
    """A name, option or file that a person gave cannot be used: one clear line, exit code 2 on the command line."""


class UnknownEnv(EnvUserError):
    """There is no environment of that name."""


class Message(msgspec.Struct, frozen=True):
    """One message of a prompt, before any template."""

    role: Literal["system", "user", "assistant"]
    text: str


class Task(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One problem, with the truth that the environment derived for it."""

    env: str
    env_version: str
    split: Split
    seed: int
    """The source of everything random about this task."""
    index: int
    """Place in its split; -1 for a proposed task."""
    mode: str
    difficulty: int
    prompt: tuple[Message, ...]
    """What the solver is shown."""
    payload: dict[str, Any]
    """Plain data that the verifier needs; never shown to a model."""
    content: str
    """Canonical text of the problem itself, without its surface form: equal content = the same task."""
    family: str
    """A coarser canonical text that all aliases of the task share; splits are disjoint by it."""
    origin: Origin = "procedural"
    parents: tuple[str, ...] = ()
    """Keys of the tasks that were shown to the proposer."""

    @cached_property
    def key(self) -> str:
        """Identity of the task: a digest of (env, env_version, mode, content), 20 hexadecimal digits."""
        return digest(self.env, self.env_version, self.mode, self.content)


class Rejection(msgspec.Struct, frozen=True):
    """Why a proposal did not become a task."""

    reason: Reason
    detail: str = ""


class Verdict(msgspec.Struct, frozen=True):
    """What the verifier says of one answer (or of one seat of a game)."""

    reward: float
    status: Status
    parts: dict[str, float] = {}
    """Named parts of the reward, for the curves."""


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """Whose move it is, and what this seat sees that it has not seen before."""

    seat: int
    new_messages: tuple[Message, ...]
    legal: tuple[str, ...] | None = None
    max_new_tokens: int | None = None
    """Most tokens of this turn, where that is fewer than its role may write."""
    stop: tuple[str, ...] = ()
    """Texts that end this turn, besides those that end every turn of its role."""


class IllegalRule(msgspec.Struct, frozen=True, kw_only=True):
    """What an illegal move costs in a game; a forfeit is exempt from summing to zero."""

    retries: int = 0
    """Further tries at a move before the seat forfeits."""
    loser: float
    """Reward of the seat that forfeits."""
    winner: float
    """Reward of every other seat."""


class EnvSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The facts about an environment that a run and its reader need."""

    name: str
    version: str
    modes: tuple[str, ...] = ("solve",)
    difficulties: tuple[int, ...] = (1,)
    """All difficulties that `task` accepts, easiest first."""
    seats: int = 1
    reward_range: tuple[float, float] = (0.0, 1.0)
    zero_sum: bool = False
    splits: tuple[Split, ...] = SPLITS
    max_new_tokens: int = 64
    """Enough tokens for a full answer by a character-level model (an upper bound for others)."""
    propose_tokens: int = 32
    """The same for a proposal."""
    illegal: IllegalRule | None = None
    """What happens in a game when a seat does not write a legal move."""
    p95_ms: float = 50.0
    """Milliseconds that the 95th percentile of task, verify and admit stays below; more if they execute programs."""
    parallel: int = 1
    """Calls of `verify` (or an episode's `act`) and of `admit` that may go on at a time, each in a thread; more than 1
    where they wait for something."""
    summary: str = ""
    """One line for `selfplay envs list`."""


@runtime_checkable
class Env(Protocol):
    """Everything that can pose tasks."""

    spec: EnvSpec

    def task(
        self, split: Split, index: int, seed: int, *, mode: str | None = None, difficulty: int | None = None
    ) -> Task:
        """The task at a place: the same arguments give the same task in any process, at any time.

        Args:
          split: which split; never shares a family with another.
          index: place in the split, 0 or more.
          seed: chooses among the many orders of the split.
          mode: one of `spec.modes`; None = the first.
          difficulty: one of `spec.difficulties`; None = drawn from them by the seed and index.
        """

    def size(self, split: Split) -> int | None:
        """Number of tasks in a split; None = endless."""

    def open(self, task: Task) -> Episode:
        """A fresh episode of the task."""


class Episode(Protocol):
    """One play of a task, turn by turn."""

    def turn(self) -> Turn | None:
        """The next turn, or None when the episode is over."""

    def act(self, seat: int, text: str) -> None:
        """Take what a seat wrote. Total: a bad text is data, never an exception."""

    def verdicts(self) -> tuple[Verdict, ...]:
        """One verdict a seat, once the episode is over."""

    def close(self) -> None:
        """Free what the episode holds."""


@runtime_checkable
class Verifiable(Env, Protocol):
    """An environment whose answers are judged by a pure function of (task, text)."""

    def parse(self, task: Task, text: str) -> Any | None:
        """The answer found in the text, or None."""

    def verify(self, task: Task, text: str) -> Verdict:
        """Judge an answer. Pure and total: no text makes it raise."""

    def gold(self, task: Task) -> str | None:
        """A text that verifies with full reward (with its working, where that helps), or None if unknown."""


@runtime_checkable
class Proposable(Verifiable, Protocol):
    """An environment that can turn a model's text into a new task, deriving the truth itself."""

    def ask(self, mode: str, shown: Sequence[Task], seed: int) -> tuple[Message, ...]:
        """The prompt that asks for a new task, showing some earlier ones."""

    def admit(self, mode: str, text: str, shown: Sequence[Task], seed: int) -> Task | Rejection:
        """Turn a proposal into a task, or say why not. Total; checks in the order of `REASONS`."""

    def offer(self, task: Task) -> str:
        """The text by which a proposer proposes this very task: `admit` of it gives the same key.

        Pretraining demonstrates proposals with it, and the conformance kit admits its own samples.
        """

    def shape(self, task: Task) -> str:
        """A coarse bucket of the task, for counting novelty and coverage."""


CHANCE, OVER = -1, -2
"""What `State.player` says where no seat is to move."""


class State(Protocol):
    """A state of a game: immutable, and everything that has happened so far is in it."""

    def player(self) -> int:
        """The seat to move; CHANCE where chance moves, OVER at the end."""

    def actions(self) -> tuple[str, ...]:
        """The legal moves of the seat to move, each the exact text that a model writes."""

    def chances(self) -> tuple[tuple[State, float], ...]:
        """Where chance moves: every state that may follow, and its probability."""

    def after(self, action: str) -> State:
        """The state after a legal move."""

    def returns(self) -> tuple[float, ...]:
        """Of a state that is over: the reward of every seat."""

    def view(self, seat: int) -> tuple[Message, ...]:
        """Everything that the seat has been shown so far, its own moves included as the assistant's; append-only."""

    def information(self, seat: int) -> str:
        """Key of what the seat knows: states with equal keys have equal views and equal moves for it."""


@runtime_checkable
class GameEpisode(Episode, Protocol):
    """An episode that shows its state, for scripted players."""

    @property
    def state(self) -> State:
        """Where the game stands."""


Bot = Callable[[State, random.Random], str]
"""A scripted player: the state, a source of chance -> a legal move."""


@runtime_checkable
class Game(Env, Protocol):
    """An environment whose rules can be walked, so that play can be judged exactly and by scripted players."""

    def root(self) -> State:
        """The state before anything has happened, chance included."""

    def bots(self) -> Mapping[str, Bot]:
        """Scripted players by name: `random` always; `perfect` or `equilibrium` where known."""


@runtime_checkable
class Unchecked(Proposable, Protocol):
    """An environment that can make a task of a proposal without any check: to study what checks are worth."""

    def unchecked(self, mode: str, text: str, shown: Sequence[Task], seed: int) -> Task | None:
        """The task that a rejected proposal would be. Total. Where there is no truth to derive, no answer is right.

        None where there is no such task either, as in a held-out family.
        """


class SingleTurn:
    """Base class that gives the Episode for free: write `spec`, `task`, `parse`, `verify` and `gold`."""

    spec: EnvSpec

    def size(self, split: Split) -> int | None:
        return None

    def verify(self, task: Task, text: str) -> Verdict:
        raise NotImplementedError(f"{type(self).__name__} must define verify(task, text)")

    def open(self, task: Task) -> Episode:
        return OneTurn(self, task)


class OneTurn:
    """The episode of a single-turn environment: one prompt, one answer, one verdict."""

    def __init__(self, env: SingleTurn, task: Task) -> None:
        self._env, self._task = env, task
        self._verdict: Verdict | None = None

    def turn(self) -> Turn | None:
        if self._verdict is not None:
            return None
        return Turn(seat=0, new_messages=self._task.prompt)

    def act(self, seat: int, text: str) -> None:
        if seat != 0 or self._verdict is not None:
            raise ValueError(f"seat {seat} cannot act: a single-turn episode takes one answer, from seat 0")
        self._verdict = self._env.verify(self._task, text)

    def verdicts(self) -> tuple[Verdict, ...]:
        if self._verdict is None:
            raise ValueError("the episode is not over: no answer was given yet")
        return (self._verdict,)

    def close(self) -> None:
        return None


def nearest(name: str, valid: Iterable[str], *, count: int = 3) -> str:
    """A readable hint: the nearest valid names, or all of them when few."""
    names = sorted(set(valid))
    close = difflib.get_close_matches(name, names, n=count, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(close) + "?"
    return ("valid: " + ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")) if names else "there are none"


def digest(*parts: str) -> str:
    """A stable digest of some texts, 20 hexadecimal digits; no two lists of texts run together."""
    return hashlib.sha256(b"".join(map(_framed, parts))).hexdigest()[:20]


def _framed(part: str) -> bytes:
    """A text behind its length."""
    text = part.encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "big") + text


@cache
def _split_hash(env: str) -> hashlib._Hash:
    return hashlib.sha256(_framed("split") + _framed(env))


def stable_seed(*parts: str | int) -> int:
    """A 63-bit seed from some labels, the same in every process."""
    return int(digest(*(str(p) for p in parts))[:16], 16) >> 1


def split_of(env: str, family: str, *, held_out: float = 0.1) -> Split:
    """The split that a family belongs to: a fixed hash decides, so proposals and generators agree.

    Args:
      env: the environment's name.
      family: canonical text that all aliases of a task share.
      held_out: share of the families that `dev` and `test` each get.
    """
    hashed = _split_hash(env).copy()  # a generator asks for every draw: what all of them share is hashed once
    hashed.update(_framed(family))
    u = int.from_bytes(hashed.digest()[:6], "big") / 16**12
    if u < held_out:
        return "dev"
    return "test" if u < 2 * held_out else "train"
