"""The records that travel from actors to the learner, and how they cross a process border.

Frozen; arrays are NumPy; bytes on the wire are msgpack, never pickle.
Letters: B sequences, T tokens, n tokens of one trajectory.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import msgspec
import numpy as np

from envs.base import Message, Rejection, Split, Task, Verdict
from selfplay.config import ROLES as ROLES
from selfplay.config import Constrain, Template
from selfplay.config import Role as Role

UnitKind = Literal["propose", "solve", "play", "evaluate"]
Finish = Literal["stop", "length", "eos", "abandoned"]

FORMAT = 3
"""Version of the records and of the generation folder."""


class PolicyRef(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which weights: a policy's name and its version (the learner step that published it)."""

    policy: str
    version: int
    memory: str = ""
    """Digest of the lessons that it reads besides; empty = none."""

    @property
    def weights(self) -> PolicyRef:
        """The version of the weights alone."""
        return PolicyRef(self.policy, self.version) if self.memory else self


class Lesson(msgspec.Struct, frozen=True, kw_only=True):
    """A task that a policy failed on, with the right answer: what it is shown again with like tasks."""

    env: str
    mode: str
    shape: str
    """The environment's coarse bucket of the task."""
    family: str
    question: tuple[Message, ...]
    answer: str


class Player(msgspec.Struct, frozen=True):
    """Who sits at a seat of a game: a version of a policy or a scripted bot of the environment, exactly one of them."""

    policy: str = ""
    version: int = 0
    bot: str = ""

    def __post_init__(self) -> None:
        if bool(self.policy) == bool(self.bot):
            raise ValueError(f"a player is a policy or a bot, got policy {self.policy!r} and bot {self.bot!r}")


SEATS = ("first", "second")
"""What the seats of a game for two are called."""


class SamplingSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How one role samples."""

    max_new_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    """0 = all tokens."""
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    """Texts that end a completion; the model's end tokens always do."""
    slots: int = 0
    """Rows that decode side by side; others wait until one of them stops. 0 = all rows of the call."""
    constrain: Constrain = "none"
    """legal = only legal moves are drawn, by the trie of their tokens; stop texts do not matter then."""


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """A self-contained piece of acquisition: all that an actor needs, drawn by the learner.

    The Groups that it yields are a function of this record and the versions it names, whichever
    process runs it and when.
    """

    seed: int
    """The run's seed."""
    generation: int
    step: int
    """Learner step, counted over the whole run."""
    index: int
    """Place of the unit in its step; Groups are consumed in this order."""
    round: int = 0
    """0 = drawn by the learner, 1.. = follow-up asked for by a refiner."""
    kind: UnitKind
    env: str
    options: dict[str, Any] = {}
    split: Split = "train"
    mode: str
    tasks: tuple[Task, ...] = ()
    """Given tasks (replayed ones), one a row; empty = the environment proposes or poses them."""
    difficulties: tuple[int, ...] = ()
    """Of procedural tasks, one a row: row r is the environment's task at index first_index + r."""
    first_index: int = 0
    task_seed: int = 0
    """Seed of procedural tasks: the run's in training, a fixed one in evaluation."""
    shown: tuple[tuple[Task, ...], ...] = ()
    """For a propose unit: the tasks that each ask shows, one tuple an ask."""
    rows: int
    """Proposals of a propose unit, tasks (of a game: deals) of any other."""
    per_ask: int = 1
    """Sibling proposals that answer the same ask."""
    attempts: int = 1
    """G: solution attempts a task, games a deal."""
    leak: float = 0.0
    """Share of rejected proposals that become tasks all the same."""
    answers: bool = False
    """Attempts say what the environment read in them."""
    hint: str = ""
    """What stands before every question, {answer} being the environment's own answer; empty = nothing."""
    demonstrate: bool = False
    """Groups bring the environment's own answer along, as a policy would have written it."""
    lessons: tuple[Lesson, ...] = ()
    """What the solver's memory holds, the oldest first."""
    lessons_shown: int = 0
    seats: dict[Role, PolicyRef]
    sampling: dict[Role, SamplingSpec]
    frozen: tuple[Role, ...] = ()
    """Roles whose tokens never reach a loss."""
    templates: dict[Role, Template] = {}
    """How each role is spoken to; a role that is missing reads plain texts."""
    players: tuple[tuple[Player, ...], ...] = ()
    """Of games: who sits at each seat, one tuple a row, the same through all games of the row."""
    learners: tuple[tuple[int, ...], ...] = ()
    """Of games: the seats that are learnt from, one tuple a row."""

    @property
    def place(self) -> int:
        """Where its draws come from within the step: its index, in later rounds apart from the first's."""
        return self.index + (self.round << 20)

    @property
    def example_seed(self) -> int:
        """Where examples come from: the run's seed, but for held-out tasks, which every run asks in the same words."""
        return self.task_seed if self.kind == "evaluate" else self.seed


class Trajectory(msgspec.Struct, frozen=True, kw_only=True):
    """Whatever a policy wrote in one role: stored when sampled, never rebuilt from text."""

    role: Role
    seat: int = 0
    policy: PolicyRef
    trainable: bool = True
    ids: np.ndarray
    """[n] int32: the prompt and everything after it."""
    mask: np.ndarray
    """[n] bool: True = a token that the policy chose."""
    behaviour_logprobs: np.ndarray
    """[n] float32, nats, of the distribution sampled from; 0 where mask is False."""
    kept: np.ndarray | None = None
    """[m, K] int32, a row for each of the m tokens that the policy chose: the candidates among which it was drawn, -1 =
    none. The log-probabilities are over them alone. None = the whole vocabulary."""
    turn_starts: tuple[int, ...]
    """Where each turn's own tokens begin."""
    finish: tuple[Finish, ...]
    """Why each turn ended."""
    verdict: Verdict
    """Of an attempt. A proposal's is its validity: reward 1 when admitted, else 0 and `unparsed` or `illegal`."""
    text: str
    """What followed the prompt, decoded, for transcripts; of several turns all, what was read between them too."""
    answer: str = ""
    """What the environment read in the last turn, where the unit asked for answers; empty = nothing, or cut off."""
    task_key: str = ""
    parent_key: str = ""
    """What siblings share: the task of an attempt, the ask of a proposal."""

    @property
    def truncated(self) -> bool:
        return "length" in self.finish


class GameResult(msgspec.Struct, frozen=True):
    """How one game ended, for every seat, also one that a bot had or that never came to move."""

    verdicts: tuple[Verdict, ...]
    """One a seat."""
    moves: int
    """Turns of all seats together."""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """One proposal (or given task) with all that was tried on it; exactly one of task and rejection."""

    generation: int
    step: int
    unit: int
    round: int = 0
    row: int
    """Index in the unit before admission: a rejection renumbers nobody."""
    kind: UnitKind
    env: str
    mode: str
    split: Split
    task: Task | None = None
    rejection: Rejection | None = None
    proposal: Trajectory | None = None
    attempts: tuple[Trajectory, ...] = ()
    demonstration: Trajectory | None = None
    """The environment's own answer as a policy would have written it; its log-probabilities are unknown (0)."""
    shape: str = ""
    """The environment's coarse bucket of the task."""
    seats: dict[Role, PolicyRef]
    players: tuple[Player, ...] = ()
    """Of a game: who sat at each seat. `attempts` then holds a Trajectory a game and seat that a policy played, game
    after game; a seat that never came to move has none."""
    games: tuple[GameResult, ...] = ()
    """Of a game: how each ended."""

    def __post_init__(self) -> None:
        if (self.task is None) == (self.rejection is None):
            raise ValueError("a Group holds exactly one of task and rejection")

    @property
    def valid(self) -> tuple[Trajectory, ...]:
        """Attempts that the environment could judge."""
        return tuple(a for a in self.attempts if a.verdict.status != "env_error")

    @property
    def solve_rate(self) -> float:
        """p-hat: the mean of solved (reward at its full value is 1) over valid attempts; NaN if there are none."""
        solved = [a.verdict.status == "ok" for a in self.valid]
        return float(np.mean(solved)) if solved else float("nan")


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Packed training data of one policy for one optimizer minibatch: B rows of T tokens.

    Several trajectories share a row, told apart by `segment_ids`; a token attends to its own segment, and to the prefix
    that this one continues.
    A column reads a token and predicts the next one. A trajectory's last token is only predicted, so its n tokens
    take n - 1 columns. `mask` and all that follow `targets` speak of the token that a column predicts.
    """

    policy: str
    ids: np.ndarray
    """[B, T] int32: tokens read."""
    positions: np.ndarray
    """[B, T] int32: place in its own trajectory."""
    segment_ids: np.ndarray
    """[B, T] int32: 0 = padding, 1.. = the segments of the row."""
    prefix_ids: np.ndarray
    """[B, T] int32: the segment that a token's own one continues; its own where that begins by itself."""
    targets: np.ndarray
    """[B, T] int32: the token after the one read; 0 on padding."""
    mask: np.ndarray
    """[B, T] bool: tokens that the policy loss counts."""
    reg_mask: np.ndarray
    """[B, T] bool: tokens that KL and entropy count (every policy token, also of trajectories without advantage)."""
    counts: np.ndarray
    """[B, T] int32: trajectories that a policy token stands for, as equal ones of a group are laid out once; else 0."""
    behaviour_logprobs: np.ndarray
    """[B, T] float32, nats."""
    reference_logprobs: np.ndarray
    """[B, T] float32, nats; 0 when no reference is used."""
    advantages: np.ndarray
    """[B, T] float32."""
    returns: np.ndarray
    """[B, T] float32: what the critic regresses on; 0 without a critic."""
    old_values: np.ndarray
    """[B, T] float32: the critic's values at batch start; 0 without a critic."""
    weights: np.ndarray
    """[B, T] float32: `counts` times the role's loss weight over its denominator: sum(weights * term) is the loss."""
    reg_weights: np.ndarray
    """[B, T] float32: `counts` over the number of regularised tokens of the minibatch."""
    value_weights: np.ndarray
    """[B, T] float32: `counts` over the number of tokens that the critic regresses on, at those; 0 without a critic."""
    roles: np.ndarray
    """[B, T] int32: index into ROLES, -1 on padding."""
    pair_ids: np.ndarray
    """[B, T] int32: trajectories that a pairwise loss compares share an id; 0 = none."""
    loss: str
    """Name of the loss, a key of losses.LOSSES."""
    kept: np.ndarray | None = None
    """[B, T, K] int32: the candidates among which a token was drawn, -1 = none; no candidate at all = the whole
    vocabulary. None = so everywhere."""


T = TypeVar("T")


def _enc(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        a = np.ascontiguousarray(value)
        return {"dtype": a.dtype.str, "shape": a.shape, "data": a.tobytes()}
    raise TypeError(f"{type(value).__name__} cannot cross a process border")


def _dec(kind: type, value: Any) -> Any:
    if kind is np.ndarray:
        dtype = np.dtype(value["dtype"])
        if dtype.hasobject:
            raise ValueError(f"array of dtype {dtype} refused: plain numbers only")
        return np.frombuffer(value["data"], dtype).reshape(value["shape"])
    raise TypeError(f"no decoder for {kind}")


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_enc)


def encode(record: Any) -> bytes:
    """A record (or list of records) as msgpack bytes."""
    return _ENCODER.encode(record)


def decode(data: bytes, kind: type[T]) -> T:
    """The inverse of `encode`, validated against the type.

    Raises:
      msgspec.ValidationError: when the bytes are not such a record.
    """
    return msgspec.msgpack.decode(data, type=kind, dec_hook=_dec)
