"""Episodes of one or more turns and seats: many advance together, all moves of a policy at a seat in one call.

A ply is one move of every episode that is still going on. What a seat reads is only ever appended to what it has read
and written: ids stay as they were sampled, and the sampler's cache of earlier turns is continued.
Letters: n tokens of one trajectory.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import numpy as np

from envs.base import (
    Env,
    Message,
    SingleTurn,
    Task,
    Verdict,
    Verifiable,
    stable_seed,
)
from selfplay.config import Template
from selfplay.match import Match, bot_move, bots_of
from selfplay.models.tokenizer import Tokenizer
from selfplay.records import Finish, GameResult, Player, PolicyRef, Role, SamplingSpec, Trajectory, Unit
from selfplay.sampler import Context, Sampler
from selfplay.side_by_side import each
from selfplay.streams import Stream, python_seed, row_keys
from selfplay.templates import answer_text, continue_ids, prompt_ids
from selfplay.trie import Spelling, Trie, joined
from selfplay.written import Completion


@dataclass(frozen=True)
class Speaker:
    """What turns a policy's weights into text: its sampler and its tokenizer."""

    sampler: Sampler
    tokenizer: Tokenizer
    max_positions: int
    """Longest context of the model, in tokens."""


class Clock(Protocol):
    """Adds up the seconds of the two kinds of work."""

    def sampling(self) -> AbstractContextManager[None]: ...

    def verifying(self) -> AbstractContextManager[None]: ...


@dataclass
class Said:
    """What one seat of one episode has read and written, turn by turn."""

    ids: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    starts: list[int] = field(default_factory=list)
    completions: list[Completion] = field(default_factory=list)
    finish: list[Finish] = field(default_factory=list)
    kept: list[np.ndarray] = field(default_factory=list)
    """Of a seat held to the legal moves: the candidates of each turn's tokens."""
    heard: str = ""
    """What the environment read of the last turn."""


class Voice:
    """One policy at one seat: the rows of its sampler context, one a match."""

    def __init__(
        self,
        unit: Unit,
        role: Role,
        player: Player,
        seat: int,
        speaker: Speaker,
        members: Sequence[Match],
        *,
        once: bool = False,
    ) -> None:
        """Nobody has said anything yet.

        Args:
          once: every match is over with its first turn.
        """
        self._once, self.role, self.seat, self.speaker = once, role, seat, speaker
        self.ref = unit.seats["solve"] if role == "solve" else PolicyRef(player.policy, player.version)
        self.spec, self.template = unit.sampling[role], unit.templates.get(role, Template())
        self.said = {match.index: Said() for match in members}
        self._siblings = 1 if role == "play" else unit.attempts
        self._keys = _keys(unit, role, seat, list(self.said))
        self.rows = {index: row if role == "play" else index for row, index in enumerate(self.said)}
        self._context: Context | None = None  # none before the first turn
        self._appended: dict[tuple[object, ...], np.ndarray] = {}
        self.spelling = Spelling(self.template, speaker.tokenizer) if self.spec.constrain == "legal" else None
        """Of a seat held to the legal moves."""

    def reads(self, match: Match) -> np.ndarray:
        """Ids [n] to be read before the next turn, beyond what was read and written so far."""
        messages = match.turn.new_messages if match.turn is not None else ()
        last = self.said[match.index].completions[-1:]
        key = (messages, *((self._decoded(c), c.finish == "eos") for c in last))
        if key not in self._appended:  # games repeat themselves
            self._appended[key] = self._rendered(messages, last[0] if last else None)
        return self._appended[key]

    def spec_of(self, match: Match) -> SamplingSpec:
        """How the next turn of a match is sampled: as the role is, within the limits of the turn itself."""
        turn, held = match.turn, self.spelling is not None
        if turn is None or (turn.max_new_tokens is None and not turn.stop and not held):
            return self.spec
        most = min(turn.max_new_tokens or self.spec.max_new_tokens, self.spec.max_new_tokens)
        stop = () if held else tuple(dict.fromkeys((*self.spec.stop, *turn.stop)))  # held: whole moves end it
        return msgspec.structs.replace(self.spec, max_new_tokens=most, stop=stop)

    def has_room(self, match: Match, ids: np.ndarray) -> bool:
        """Whether the model has positions left for a turn after so many more tokens."""
        length = len(self.said[match.index].ids) + len(ids) + self.spec_of(match).max_new_tokens
        return length <= self.speaker.max_positions

    def moves(self, match: Match) -> Trie | None:
        """All that may be written in the next turn of a match; None = anything."""
        if self.spelling is None or match.turn is None:
            return None
        if not match.turn.legal:
            raise ValueError(f"environment {match.task.env} does not say which moves are legal")
        return self.spelling.trie(match.turn.legal, limit=self.spec_of(match).max_new_tokens)

    def speak(
        self, reads: Mapping[int, np.ndarray], spec: SamplingSpec, moves: Mapping[int, Trie | None] | None = None
    ) -> dict[int, str]:
        """One turn of some matches, by index, after the ids that each reads; what the environment reads of it.

        Args:
          spec: the `spec_of` all of them.
          moves: the `moves` of each; needed of a seat held to the legal ones.
        """
        if self.spelling is not None and moves is None:
            raise ValueError("a seat held to the legal moves needs the moves of each match")
        asked: list[np.ndarray | None] = [None] * len(self._keys)
        tries: list[Trie | None] = [None] * len(self._keys)
        for index, ids in reads.items():
            asked[self.rows[index]] = ids
            tries[self.rows[index]] = moves[index] if moves else None
        done = self._drawn(asked, spec, {"allowed": tries} if self.spelling else {})
        for index in reads:
            if (trie := tries[self.rows[index]]) is not None:
                self.said[index].kept.append(trie.kept(done[self.rows[index]].ids))
        return {i: self._hear(self.said[i], ids, done[self.rows[i]], spec) for i, ids in reads.items()}

    def _drawn(
        self, asked: Sequence[np.ndarray | None], spec: SamplingSpec, held: Mapping[str, Sequence[Trie | None]]
    ) -> list[Completion]:
        """What is written in every row, after what it has read and written so far."""
        sampler, ref = self.speaker.sampler, self.ref.weights
        if self._once:
            return sampler.complete(ref, self._prompts(asked), self._keys, spec, attempts=self._siblings)
        if self._context is None and self.role == "play":  # short and unlike: nothing to read once for several rows
            _, self._context = sampler.start(ref, [None] * len(asked), self._keys, spec)
        if self._context is None:
            prompts = self._prompts(asked)
            done, self._context = sampler.start(ref, prompts, self._keys, spec, attempts=self._siblings, **held)
        else:
            done, self._context = sampler.extend(self._context, asked, self._keys, spec, **held)
        return done

    def _prompts(self, asked: Sequence[np.ndarray | None]) -> list[np.ndarray | None]:
        """One a task: attempts at the same one read the same."""
        tasks = [asked[i : i + self._siblings] for i in range(0, len(asked), self._siblings)]
        return [next((ids for ids in task if ids is not None), None) for task in tasks]

    def trajectory(self, match: Match, verdict: Verdict, *, trainable: bool, reader: Env | None) -> Trajectory | None:
        """All that this seat read and wrote in a match; None where it never came to write.

        Args:
          reader: the environment, where the trajectory is to say what it reads in the last turn.
        """
        said = self.said[match.index]
        if not said.starts:
            return None
        mask, logprobs = np.zeros(len(said.ids), bool), np.zeros(len(said.ids), np.float32)
        for start, completion in zip(said.starts, said.completions, strict=True):
            own = slice(start, start + len(completion.ids))
            mask[own], logprobs[own] = True, completion.logprobs
        whole = self.speaker.tokenizer.decode(said.ids[said.starts[0] :])
        return Trajectory(
            role=self.role,
            seat=self.seat,
            policy=self.ref,
            trainable=trainable,
            ids=said.ids,
            mask=mask,
            behaviour_logprobs=logprobs,
            kept=joined(said.kept) if said.kept else None,
            turn_starts=tuple(said.starts),
            finish=tuple(said.finish),
            verdict=_cut_short(verdict) if self.role != "play" and "length" in said.finish else verdict,
            text=whole if len(said.starts) > 1 else self._decoded(said.completions[0]),
            answer=answer(reader, match.task, said.heard) if reader and said.finish[-1] != "length" else "",
            task_key=match.task.key,
        )

    def _rendered(self, messages: Sequence[Message], last: Completion | None) -> np.ndarray:
        tokenizer = self.speaker.tokenizer
        if last is None:
            return prompt_ids(self.template, tokenizer, messages)
        return continue_ids(self.template, tokenizer, messages, written=self._decoded(last), eos=last.finish == "eos")

    def _hear(self, said: Said, read: np.ndarray, completion: Completion, spec: SamplingSpec) -> str:
        """Note a turn; what the environment reads of it. A move that was cut off is none."""
        finish = completion.finish
        if self.role == "play" and (spec.max_new_tokens == 1 or self.spelling) and finish == "length":
            finish = "stop"  # a turn of one token is complete with it, and a legal move always is
        said.starts.append(len(said.ids) + len(read))
        said.ids = np.concatenate([said.ids, read, completion.ids]).astype(np.int32)
        said.completions.append(completion)
        said.finish.append(finish)
        cut = self.role == "play" and finish == "length"
        said.heard = "" if cut else answer_text(self.template, self._decoded(completion), spec.stop)
        return said.heard

    def _decoded(self, completion: Completion) -> str:
        ids = completion.ids[:-1] if completion.finish == "eos" else completion.ids
        return self.speaker.tokenizer.decode(ids)


def _keys(unit: Unit, role: Role, seat: int, members: Sequence[int]) -> np.ndarray:
    """Raw keys [rows, 2] of a voice: one a member, and of a game some more, so that few shapes occur; where tasks are
    solved, one for every attempt of the unit, as a rejection renumbers nobody."""
    stream = Stream.EVALUATE if unit.kind == "evaluate" else Stream.PLAY if role == "play" else Stream.SOLVE
    path = unit.generation, unit.step, unit.place, unit.rows * unit.attempts
    keys = row_keys(unit.seed, stream, *path, seat=seat)
    if role != "play":
        return keys
    return np.pad(keys[list(members)], ((0, few(len(members)) - len(members)), (0, 0)))


def _cut_short(verdict: Verdict) -> Verdict:
    """The verdict on an answer that was cut off by its length: it earns nothing."""
    if verdict.status != "ok" and verdict.reward <= 0:
        return verdict
    return Verdict(0.0, "wrong" if verdict.status == "ok" else verdict.status, {"truncated": 1.0})


def few(rows: int) -> int:
    """Rows rounded up to 8, 12, 16, 24, 32, 48, ...: line-ups differ from unit to unit, compiled shapes should not."""
    size = 8
    while size < rows:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


class Play:
    """The episodes of a unit, and the voices of their seats."""

    def __init__(
        self,
        unit: Unit,
        env: Env,
        speakers: Mapping[str, Speaker],
        tasks: Sequence[Task | None],
        *,
        role: Role,
        clock: Clock,
        first: Sequence[np.ndarray | None] = (),
    ) -> None:
        """Set the tables.

        Args:
          tasks: one a row; None is a hole.
          first: what the first turn of each row reads, where that is more than its messages (examples come before).
        """
        self.unit, self.env, self.role, self.clock, self._first = unit, env, role, clock, first
        solver = unit.seats["solve"] if role == "solve" else None
        alone = (Player(solver.policy, solver.version),) if solver else ()
        self.matches = [
            Match(row * unit.attempts + game, task, alone or unit.players[row])
            for row, task in enumerate(tasks)
            for game in range(unit.attempts)
            if task is not None
        ]
        self._of: dict[int, list[Match]] = {}
        for match in self.matches:
            self._of.setdefault(match.index // unit.attempts, []).append(match)
        self._scripted = bots_of(env)
        self._bot_seed = python_seed(unit.seed, Stream.MATCH, unit.generation, unit.step, unit.place)
        sides = dict.fromkeys((p, seat) for m in self.matches for seat, p in enumerate(m.players) if p.policy)
        self.voices = {
            (player, seat): Voice(
                unit, role, player, seat, speakers[player.policy],
                [m for m in self.matches if m.players[seat] == player],
                once=role == "solve" and isinstance(env, SingleTurn),
            )
            for player, seat in sides
        }  # fmt: skip

    def run(self) -> None:
        """Play every episode to its end; of more than the slots, the next one begins when one is over."""
        slots = self.unit.sampling[self.role].slots if self.role == "play" else 0
        places = slots or len(self.matches)
        waiting, playing = iter(self.matches), list[Match]()
        while playing := self._seated(playing, waiting, places):
            movers: dict[tuple[Player, int], list[Match]] = {}
            for match in playing:
                movers.setdefault(match.mover, []).append(match)
            for mover, moving in movers.items():
                self._ply(self.voices[mover], moving)

    def trajectories(self, row: int) -> tuple[Trajectory, ...]:
        """What the policies wrote in the episodes of a row: game after game, seat after seat."""
        found, frozen = [], self.role in self.unit.frozen
        reader = self.env if self.unit.answers else None
        for match in self._of.get(row, ()):
            learnt = self.unit.learners[row] if self.unit.learners else range(len(match.players))
            for seat, player in enumerate(match.players):
                if player.policy:
                    voice, verdict = self.voices[player, seat], match.verdicts[seat]
                    trainable = seat in learnt and not frozen
                    found.append(voice.trajectory(match, verdict, trainable=trainable, reader=reader))
        return tuple(t for t in found if t is not None)

    def results(self, row: int) -> tuple[GameResult, ...]:
        """How the episodes of a row ended."""
        return tuple(GameResult(match.verdicts, match.moves) for match in self._of.get(row, ()))

    def _seated(self, playing: list[Match], waiting: Iterator[Match], places: int) -> list[Match]:
        """Who plays the next ply, bots having moved: those not over, and the next ones in the places of the others."""
        with self.clock.verifying():
            for match in playing:
                self._bots(match)
            playing = [match for match in playing if not match.over]
            while len(playing) < places and (new := next(waiting, None)) is not None:
                new.begin(self.env)
                self._bots(new)
                playing += [new] * (not new.over)
        return playing

    def _bots(self, match: Match) -> None:
        """Let scripted players move until a policy is to move, or the game is over."""
        while not match.over and (bot := match.mover[0].bot):
            seed = stable_seed("bot", self._bot_seed, match.index, match.moves)
            match.act(match.mover[1], bot_move(self._scripted, match.playing, bot, random.Random(seed)))

    def _ply(self, voice: Voice, moving: Sequence[Match]) -> None:
        """One turn of some matches at the same seat, by the same policy."""
        asked: dict[SamplingSpec, dict[int, np.ndarray]] = {}
        with self.clock.verifying():
            for match in moving:
                ids = voice.reads(match) if match.moves or not self._first else self._given(match)
                if voice.has_room(match, ids):
                    asked.setdefault(voice.spec_of(match), {})[match.index] = ids
                else:
                    match.fail()
        said: dict[int, str] = {}
        with self.clock.sampling():
            for spec, reads in asked.items():
                moves = {match.index: voice.moves(match) for match in moving if match.index in reads}
                said |= voice.speak(reads, spec, moves)
        heard = [match for match in moving if match.index in said]
        with self.clock.verifying():
            each(lambda match: match.act(voice.seat, said[match.index]), heard, threads=self.env.spec.parallel)

    def _given(self, match: Match) -> np.ndarray:
        ids = self._first[match.index // self.unit.attempts]
        if ids is None:
            raise ValueError(f"row {match.index // self.unit.attempts} has a task and no prompt")
        return ids


def answer(env: Env, task: Task, text: str) -> str:
    """What the environment reads in a text, as a text by which equal answers are told; empty = nothing."""
    found = env.parse(task, text) if isinstance(env, Verifiable) else text.strip()
    return "" if found is None else str(found)
