"""Experience acquisition: run one Unit, from propose and admit to solve and verify, or to games played.

Letters: N tasks (rows of the unit), G attempts, n tokens of one trajectory.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from envs.base import Env, EnvError, Message, Proposable, Rejection, Task, Unchecked, Verdict, Verifiable
from selfplay.config import Template
from selfplay.play import Play, Speaker, answer
from selfplay.prompts import Recall, pose, posed, prompter
from selfplay.records import Group, PolicyRef, Role, Trajectory, Unit
from selfplay.side_by_side import each
from selfplay.streams import Stream, python_seed, row_keys
from selfplay.templates import answer_text
from selfplay.written import Completion


@dataclass(frozen=True)
class Timings:
    """Seconds spent inside one unit."""

    sample_s: float
    verify_s: float


@dataclass(frozen=True)
class Proposals:
    """What the propose phase hands to the solve phase, one entry a row."""

    outcomes: tuple[Task | Rejection, ...]
    trajectories: tuple[Trajectory | None, ...]


def acquire(unit: Unit, env: Env, speakers: Mapping[str, Speaker]) -> tuple[list[Group], Timings]:
    """Run a unit: one Group a row, in row order.

    The Groups are a function of the unit and the weights that it names: rows, shapes and keys come from the
    unit alone, and a rejected proposal leaves a hole instead of moving its neighbours.
    """
    clock = _Clock()
    proposals = _propose(unit, env, speakers, clock) if unit.kind == "propose" else _given(unit, env)
    ways = _play if unit.players else _solve
    play, shown = ways(unit, env, speakers, proposals.outcomes, clock)
    proposable = env if isinstance(env, Proposable) else None
    groups = [
        Group(
            generation=unit.generation,
            step=unit.step,
            unit=unit.index,
            round=unit.round,
            row=row,
            kind=unit.kind,
            env=unit.env,
            mode=unit.mode,
            split=unit.split,
            task=None if isinstance(outcome, Rejection) else outcome,
            rejection=outcome if isinstance(outcome, Rejection) else None,
            proposal=proposals.trajectories[row],
            attempts=play.trajectories(row),
            demonstration=shown[row],
            shape=proposable.shape(outcome) if proposable and isinstance(outcome, Task) else "",
            seats=unit.seats,
            players=unit.players[row] if unit.players else (),
            games=play.results(row) if unit.players else (),
        )
        for row, outcome in enumerate(proposals.outcomes)
    ]
    return groups, Timings(sample_s=clock.sample_s, verify_s=clock.verify_s)


def _propose(unit: Unit, env: Env, speakers: Mapping[str, Speaker], clock: _Clock) -> Proposals:
    """Ask, sample and admit: `per_ask` sibling proposals for each ask."""
    if not isinstance(env, Proposable):
        raise EnvError(f"environment {unit.env} takes no proposals: it has no ask and admit")
    asks = unit.rows // unit.per_ask
    seeds = [
        python_seed(unit.seed, Stream.REFERENCES, unit.generation, unit.step, unit.place, ask) for ask in range(asks)
    ]
    shown = unit.shown or ((),) * asks
    ref, spec = unit.seats["propose"], unit.sampling["propose"]
    speaker = speakers[ref.policy]
    writer = prompter(unit, "propose", env, speaker.tokenizer)
    prompts = [writer.propose(unit.mode, shown[ask], seeds[ask]) for ask in range(asks)]
    keys = row_keys(unit.seed, Stream.PROPOSE, unit.generation, unit.step, unit.place, unit.rows)
    with clock.sampling():
        completions = speaker.sampler.complete(ref.weights, prompts, keys, spec, attempts=unit.per_ask)
    outcomes: list[Task | Rejection] = []
    trajectories: list[Trajectory | None] = []
    with clock.verifying():
        read = [_read(completion, speaker, unit, "propose") for completion in completions]

        def admit(row: int) -> Task | Rejection:
            if completions[row].finish == "length":
                return Rejection("format", "the proposal did not end")
            return env.admit(unit.mode, read[row][1], shown[row // unit.per_ask], seeds[row // unit.per_ask])

        admitted = each(admit, range(unit.rows), threads=env.spec.parallel)
        for row, completion in enumerate(completions):
            ask = row // unit.per_ask
            text, said = read[row]
            outcome = _fitting(admitted[row], unit, env, speakers)
            leaked = _leaked(outcome, row, said, shown[ask], seeds[ask], unit, env, speakers)
            outcome = leaked or outcome
            valid = isinstance(outcome, Task)
            verdict = Verdict(float(valid), "ok" if valid else "unparsed", {"leaked": 1.0} if leaked else {})
            parent = f"{unit.step}:{unit.index}:{ask}"
            outcomes.append(outcome)
            trajectories.append(
                _trajectory(
                    unit,
                    "propose",
                    ref,
                    prompts[ask],
                    completion,
                    verdict,
                    text,
                    parent_key=parent,
                    task_key=outcome.key if isinstance(outcome, Task) else "",
                )
            )
    return Proposals(tuple(outcomes), tuple(trajectories))


def _fitting(outcome: Task | Rejection, unit: Unit, env: Env, speakers: Mapping[str, Speaker]) -> Task | Rejection:
    """An admitted task, unless its prompt leaves the solver no room to answer."""
    if isinstance(outcome, Rejection):
        return outcome
    speaker = speakers[unit.seats["solve"].policy]
    prompt = prompter(unit, "solve", env, speaker.tokenizer).solve(outcome)
    room = speaker.max_positions - unit.sampling["solve"].max_new_tokens
    return outcome if len(prompt) <= room else Rejection("bounds", f"the prompt has {len(prompt)} tokens, over {room}")


def _leaked(
    outcome: Task | Rejection,
    row: int,
    text: str,
    shown: Sequence[Task],
    seed: int,
    unit: Unit,
    env: Env,
    speakers: Mapping[str, Speaker],
) -> Task | None:
    """The unchecked task of a proposal that was rejected and that the gate lets through all the same, or None."""
    if not unit.leak or isinstance(outcome, Task) or outcome.reason == "held_out":
        return None
    if not isinstance(env, Unchecked):
        raise EnvError(f"environment {unit.env} makes no tasks of rejected proposals")
    draw = python_seed(unit.seed, Stream.GATE, unit.generation, unit.step, unit.place, row) / 2**32
    task = env.unchecked(unit.mode, text, shown, seed) if draw < unit.leak else None
    fits = task is not None and isinstance(_fitting(task, unit, env, speakers), Task)
    return task if fits else None


def _given(unit: Unit, env: Env) -> Proposals:
    """The tasks that the unit carries, or those that the environment poses at its indexes."""
    place = posed if unit.kind == "evaluate" else pose  # training never asks for the same place again
    tasks = unit.tasks or tuple(
        place(env, unit.split, unit.first_index + row, unit.task_seed, unit.mode, difficulty)
        for row, difficulty in enumerate(unit.difficulties)
    )
    if len(tasks) != unit.rows:
        raise ValueError(f"unit {unit.step}:{unit.index} says {unit.rows} rows and carries {len(tasks)} tasks")
    return Proposals(tasks, (None,) * len(tasks))


def _solve(
    unit: Unit, env: Env, speakers: Mapping[str, Speaker], outcomes: Sequence[Task | Rejection], clock: _Clock
) -> tuple[Play, list[Trajectory | None]]:
    """G attempts at every task, and demonstrations where they are wanted; a rejection is a hole in the same batch."""
    speaker = speakers[unit.seats["solve"].policy]
    writer = prompter(unit, "solve", env, speaker.tokenizer)
    room = speaker.max_positions - unit.sampling["solve"].max_new_tokens
    tasks = [None if isinstance(o, Rejection) else o for o in outcomes]
    prompts = [None if task is None else writer.solve(task, *_besides(unit, env, task, room)) for task in tasks]
    if unit.hint:  # it is the hint that may leave no room: such a task is not tried again
        prompts = [None if p is None or len(p) > room else p for p in prompts]
    tried = [None if prompt is None else task for task, prompt in zip(tasks, prompts, strict=True)]
    demonstrations = [
        _demonstration(unit, env, speaker, t, p) if unit.demonstrate and t is not None and p is not None else None
        for t, p in zip(tried, prompts, strict=True)
    ]
    play = Play(unit, env, speakers, tried, role="solve", clock=clock, first=prompts)
    play.run()
    return play, demonstrations


def _play(
    unit: Unit, env: Env, speakers: Mapping[str, Speaker], outcomes: Sequence[Task | Rejection], clock: _Clock
) -> tuple[Play, list[Trajectory | None]]:
    """G games of every deal."""
    tasks = [None if isinstance(o, Rejection) else o for o in outcomes]
    play = Play(unit, env, speakers, tasks, role="play", clock=clock)
    play.run()
    return play, [None] * len(tasks)


def _besides(unit: Unit, env: Env, task: Task, room: int) -> tuple[tuple[Message, ...], Recall | None]:
    """What a solver reads besides the task: a hint, and what its memory holds of like tasks."""
    hint: tuple[Message, ...] = ()
    if unit.hint:
        gold = env.gold(task) if isinstance(env, Verifiable) else None
        hint = (Message("user", unit.hint.replace("{answer}", answer(env, task, gold or ""))),)
    return hint, Recall(unit.lessons, unit.lessons_shown, room) if unit.lessons else None


def _demonstration(unit: Unit, env: Env, speaker: Speaker, task: Task, prompt: np.ndarray) -> Trajectory | None:
    """The environment's own answer after the prompt, ended as a policy ends it; None if there is none or no room."""
    gold = env.gold(task) if isinstance(env, Verifiable) else None
    if gold is None:
        return None
    ids = np.array([*speaker.tokenizer.encode(gold), speaker.tokenizer.eos_id], np.int32)
    if len(prompt) + len(ids) > speaker.max_positions:
        return None
    written = Completion(ids, np.zeros(len(ids), np.float32), "eos")
    ref, verdict = unit.seats["solve"], Verdict(env.spec.reward_range[1], "ok")
    return _trajectory(unit, "solve", ref, prompt, written, verdict, gold, task_key=task.key)


def _read(completion: Completion, speaker: Speaker, unit: Unit, role: Role) -> tuple[str, str]:
    """The text of a completion, whole and as an environment reads it; neither holds special or end tokens."""
    ids = completion.ids[:-1] if completion.finish == "eos" else completion.ids
    text = speaker.tokenizer.decode(ids)
    return text, answer_text(unit.templates.get(role, Template()), text, unit.sampling[role].stop)


def _trajectory(
    unit: Unit,
    role: Role,
    ref: PolicyRef,
    prompt: np.ndarray,
    completion: Completion,
    verdict: Verdict,
    text: str,
    *,
    task_key: str = "",
    parent_key: str = "",
    answer: str = "",
) -> Trajectory:
    start, n = len(prompt), len(prompt) + len(completion.ids)
    mask = np.zeros(n, bool)
    mask[start:] = True
    logprobs = np.zeros(n, np.float32)
    logprobs[start:] = completion.logprobs
    return Trajectory(
        role=role,
        policy=ref,
        trainable=role not in unit.frozen,
        ids=np.concatenate([prompt, completion.ids]).astype(np.int32),
        mask=mask,
        behaviour_logprobs=logprobs,
        turn_starts=(start,),
        finish=(completion.finish,),
        verdict=verdict,
        text=text,
        answer=answer,
        task_key=task_key,
        parent_key=parent_key,
    )


class _Clock:
    """Adds up the seconds of the two kinds of work in a unit."""

    def __init__(self) -> None:
        self.sample_s = 0.0
        self.verify_s = 0.0

    @contextmanager
    def sampling(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.sample_s += time.perf_counter() - began

    @contextmanager
    def verifying(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.verify_s += time.perf_counter() - began
