"""From a unit to its groups: who lands in which row, what a hole is, and who judges. Mostly with a scripted sampler."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import envs
from envs.base import Env, EnvError, Message, Rejection, Task, Verdict, split_of
from envs.chain import Chain
from envs.dsl import Dsl
from selfplay.acquire import acquire
from selfplay.actor import make_worker
from selfplay.config import Template
from selfplay.models import load, printable_ascii
from selfplay.play import Speaker
from selfplay.prompts import first_messages
from selfplay.records import Group, Lesson, PolicyRef, SamplingSpec, Unit, encode
from selfplay.written import Completion

REF = PolicyRef("main", 0)
TOKENIZER = printable_ascii()
CUT = "~"
"""A scripted text that ends so never ended: it was cut off by its length."""


@dataclass
class Scripted:
    """A sampler that says what it is told, row by row, and remembers what it was asked."""

    say: Callable[[str, int], str]
    """(prompt text, row) -> completion text."""
    calls: list[dict[str, Any]] = field(default_factory=list)

    def start(
        self, ref: PolicyRef, prompts: Sequence[np.ndarray | None], keys: np.ndarray, spec: SamplingSpec, *,
        attempts: int = 1,
    ) -> tuple[list[Completion], None]:  # fmt: skip
        self.calls.append({"ref": ref, "prompts": list(prompts), "keys": keys, "spec": spec, "attempts": attempts})
        done = []
        for row in range(len(prompts) * attempts):
            prompt = prompts[row // attempts]
            if prompt is None:
                done.append(Completion(np.zeros(0, np.int32), np.zeros(0, np.float32), "abandoned"))
                continue
            text = self.say(TOKENIZER.decode(prompt), row)
            end = [] if text.endswith(CUT) else [TOKENIZER.eos_id]
            ids = np.concatenate([TOKENIZER.encode(text.removesuffix(CUT)), end]).astype(np.int32)
            done.append(Completion(ids, -np.arange(1, len(ids) + 1, dtype=np.float32), "eos" if end else "length"))
        return done, None

    def complete(self, *args: Any, **kwargs: Any) -> list[Completion]:
        return self.start(*args, **kwargs)[0]


def make_unit(**fields: Any) -> Unit:
    spec = SamplingSpec(max_new_tokens=24)
    return Unit(
        **{
            "seed": 3, "generation": 1, "step": 4, "index": 1, "kind": "propose", "env": "chain", "mode": "solve",
            "rows": 4, "per_ask": 2, "attempts": 2, "seats": {"propose": REF, "solve": REF},
            "sampling": {"propose": spec, "solve": spec}, **fields,
        }
    )  # fmt: skip


Calls = list[dict[str, Any]]


def run_unit(
    unit: Unit,
    *scripts: Callable[[str, int], str],
    env: Env | None = None,
    max_positions: int = 256,
    proposes: str = "?",
) -> tuple[list[Group], Calls]:
    """Groups of a unit where the first script proposes and the last one solves, and the calls of the sampler."""

    def say(prompt: str, row: int) -> str:
        return scripts[0 if prompt.startswith(proposes) else -1](prompt, row)

    sampler = Scripted(say)
    speaker = Speaker(sampler, TOKENIZER, max_positions)  # type: ignore[arg-type]
    groups, _ = acquire(unit, env or Chain(), {"main": speaker})
    return groups, sampler.calls


def offers(split: str, count: int) -> list[str]:
    """Texts that propose distinct chain tasks whose family lies in a split."""
    env = Chain()
    return [env.offer(env.task(split, i, 0, difficulty=1)) for i in range(count)]  # type: ignore[arg-type]


def modes_of(env: Env) -> str:
    return env.spec.modes[0]


FIRST, SECOND = offers("train", 2)
HELD_OUT = offers("test", 1)[0]


def test_rejected_proposals_leave_holes_and_move_nobody() -> None:
    unit = make_unit(mode=modes_of(Chain()), rows=4)
    said = [FIRST, "not a task", HELD_OUT, SECOND]
    groups, calls = run_unit(unit, lambda prompt, row: said[row], lambda prompt, row: "1=2")
    assert [g.row for g in groups] == [0, 1, 2, 3]
    assert [g.task is not None for g in groups] == [True, False, False, True]
    assert [g.rejection and g.rejection.reason for g in groups] == [None, "format", "held_out", None]
    assert [len(g.attempts) for g in groups] == [2, 0, 0, 2]
    # Solving kept the shape of the unit: four prompts, two of them holes, and two keys a prompt.
    propose, solve = calls
    assert propose["keys"].shape == (4, 2) and propose["attempts"] == 2 and len(propose["prompts"]) == 2
    assert solve["keys"].shape == (8, 2) and solve["attempts"] == 2
    assert [p is None for p in solve["prompts"]] == [False, True, True, False]
    # The last row's attempts and keys are the same whatever became of its neighbours.
    alone, [_, other] = run_unit(unit, lambda prompt, row: SECOND if row == 3 else "no", lambda prompt, row: "1=2")
    np.testing.assert_array_equal(other["keys"], solve["keys"])
    assert encode(alone[3].attempts) == encode(groups[3].attempts)


def test_a_proposal_trajectory_by_hand() -> None:
    unit = make_unit(mode=modes_of(Chain()), rows=2, frozen=("propose",))
    groups, [propose, _] = run_unit(unit, lambda prompt, row: FIRST if row == 0 else "junk", lambda prompt, row: "9")
    good, bad = groups
    assert good.task is not None and good.proposal is not None and bad.proposal is not None
    assert good.task.origin == "proposed" and good.task.split == "train" and good.shape == good.task.payload["program"]
    assert (good.proposal.verdict, bad.proposal.verdict) == (Verdict(1.0, "ok"), Verdict(0.0, "unparsed"))
    assert (good.proposal.task_key, bad.proposal.task_key) == (good.task.key, "")
    assert good.proposal.parent_key == bad.proposal.parent_key != ""  # siblings of one ask
    assert good.proposal.text == FIRST and not good.proposal.trainable and good.attempts[0].trainable
    prompt = propose["prompts"][0]
    n = len(prompt) + len(FIRST) + 1
    np.testing.assert_array_equal(good.proposal.ids, [*prompt, *TOKENIZER.encode(FIRST), TOKENIZER.eos_id])
    np.testing.assert_array_equal(good.proposal.mask, np.arange(n) >= len(prompt))
    drawn = -np.arange(1, n - len(prompt) + 1)
    np.testing.assert_array_equal(good.proposal.behaviour_logprobs, [*[0.0] * len(prompt), *drawn])
    assert good.proposal.turn_starts == (len(prompt),) and good.proposal.finish == ("eos",)
    assert good.seats == unit.seats and good.proposal.policy == REF


def test_asks_have_their_own_siblings_and_show_their_own_tasks() -> None:
    env = Chain()
    shown = tuple((env.task("train", i, 9, difficulty=1),) for i in range(2))
    unit = make_unit(mode=modes_of(env), rows=4, per_ask=2, shown=shown)
    prompts: list[str] = []

    def say(prompt: str, row: int) -> str:
        prompts.append(prompt)
        return FIRST

    groups, _ = run_unit(unit, say)
    parents = [g.proposal.parent_key for g in groups if g.proposal]
    assert parents[0] == parents[1] != parents[2] == parents[3]
    assert [prompts[0], prompts[2]] == [env.offer(s) + "?" for (s,) in shown]
    assert [g.task.parents for g in groups if g.task] == [(shown[i][0].key,) for i in (0, 0, 1, 1)]


def test_a_proposal_that_did_not_end_is_rejected_as_format() -> None:
    unit = make_unit(mode=modes_of(Chain()), rows=2)
    groups, calls = run_unit(unit, lambda prompt, row: FIRST + CUT)  # the text alone would be a fine task
    assert [g.rejection.reason for g in groups if g.rejection] == ["format", "format"]
    assert all(g.proposal is not None and g.proposal.truncated for g in groups)
    assert len(calls) == 1  # nothing to solve: nobody is asked


def test_a_task_whose_prompt_leaves_no_room_for_an_answer_is_out_of_bounds() -> None:
    unit = make_unit(mode=modes_of(Chain()), rows=2)
    prompt = len(TOKENIZER.prompt(FIRST + "="))
    for room, reason in ((prompt + 24, None), (prompt + 23, "bounds")):
        groups, _ = run_unit(unit, lambda p, row: FIRST, lambda p, row: "1", max_positions=room)
        assert [g.rejection and g.rejection.reason for g in groups] == [reason] * 2


def test_an_answer_that_was_cut_off_is_never_right() -> None:
    env = Chain()
    tasks = tuple(env.task("train", i, 0, difficulty=2) for i in range(2))
    unit = make_unit(kind="solve", mode=modes_of(env), tasks=tasks, rows=2, per_ask=1)
    gold = {first_messages(env, t)[0].text: env.gold(t) for t in tasks}
    groups, _ = run_unit(unit, lambda prompt, row: gold[prompt] + (CUT if row % 2 else ""))
    for g in groups:
        whole, cut = g.attempts
        assert whole.text == cut.text and (whole.verdict.status, cut.verdict.status) == ("ok", "wrong")
        assert cut.truncated and cut.verdict.reward == 0 and not whole.truncated
        assert g.solve_rate == 0.5 and g.proposal is None and g.rejection is None
    partly, _ = run_unit(unit, lambda prompt, row: "77" + (CUT if row % 2 else ""), env=Partial())
    whole, cut = (a.verdict for a in partly[0].attempts)
    assert (cut.reward, cut.status, cut.parts) == (0, "wrong", {"truncated": 1}) and whole.reward == 0.5
    junk, _ = run_unit(unit, lambda prompt, row: "???" + CUT)
    assert junk[0].attempts[0].verdict.status == "unparsed"  # a verdict that says more is kept


class Partial(Chain):
    """Gives part of the reward for any answer."""

    def verify(self, task: Task, text: str) -> Verdict:
        return Verdict(0.5, "wrong")


def test_an_environment_reads_neither_stop_texts_nor_thinking_nor_end_tokens() -> None:
    env = Chain()
    task = env.task("train", 0, 0, difficulty=1)
    template = Template(kind="text", assistant="A: {text}\n")
    unit = make_unit(
        kind="solve", mode=modes_of(env), tasks=(task,), rows=1, per_ask=1, attempts=4,
        templates={"solve": template}, sampling={"solve": SamplingSpec(max_new_tokens=90, stop=template.stops)},
    )  # fmt: skip
    gold = env.gold(task)
    said = [f" {gold}\nQ: 77", f"<think>{gold}0</think> {gold}", f"{gold} 0", f"<think>{gold}"]
    [group], [call] = run_unit(unit, lambda prompt, row: said[row])
    assert TOKENIZER.decode(call["prompts"][0]) == f"Q: {task.prompt[0].text}\nA:"
    assert [a.verdict.status for a in group.attempts] == ["ok", "ok", "unparsed", "unparsed"]
    assert [a.text for a in group.attempts] == said  # a transcript has it all, but for the end token
    assert all(a.ids[-1] == TOKENIZER.eos_id for a in group.attempts)


class Fragile(Chain):
    """Breaks on one answer, and not because of it."""

    def verify(self, task: Task, text: str) -> Verdict:
        if text == "break":
            raise EnvError("the sandbox went away")
        return super().verify(task, text)


def test_a_failing_environment_is_masked_and_a_bug_surfaces() -> None:
    env = Fragile()
    unit = make_unit(kind="solve", mode=modes_of(env), rows=2, per_ask=1, difficulties=(1, 1))
    groups, _ = run_unit(unit, lambda prompt, row: "break" if row == 0 else "77", env=env)
    assert [a.verdict.status for a in groups[0].attempts] == ["env_error", "wrong"]
    assert len(groups[0].valid) == 1 and groups[0].solve_rate == 0

    class Buggy(Chain):
        def verify(self, task: Task, text: str) -> Verdict:
            raise KeyError("typo")

    with pytest.raises(KeyError, match="typo"):
        run_unit(unit, lambda prompt, row: "77", env=Buggy())


class Slow(Chain):
    """Every verdict and admission waits for another one, and the earlier rows are the last to be done."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = msgspec.structs.replace(self.spec, parallel=2)
        self.meet = threading.Barrier(2)

    def verify(self, task: Task, text: str) -> Verdict:
        time.sleep(0.02 * (1 - self.meet.wait(timeout=30)))
        return super().verify(task, text)

    def admit(self, mode: str, text: str, shown: Sequence[Task], seed: int) -> Task | Rejection:
        time.sleep(0.02 * (1 - self.meet.wait(timeout=30)))
        return super().admit(mode, text, shown, seed)


def test_verdicts_in_threads_are_those_of_one_thread() -> None:
    unit = make_unit(mode=modes_of(Chain()), rows=4)
    said = [FIRST, "not a task", HELD_OUT, SECOND]
    answers = ["77", "no", "1=2", "12=21"]

    def run(env: Env) -> list[bytes]:
        groups, _ = run_unit(unit, lambda prompt, row: said[row], lambda prompt, row: answers[row % 4], env=env)
        return [encode(group) for group in groups]

    assert run(Slow()) == run(Chain())


def test_given_and_procedural_tasks() -> None:
    env = Chain()
    unit = make_unit(
        kind="solve", mode=modes_of(env), rows=3, per_ask=1, difficulties=(1, 3, 2), first_index=40, task_seed=6
    )
    groups, _ = run_unit(unit, lambda prompt, row: "1")
    posed = [env.task("train", 40 + i, 6, mode=unit.mode, difficulty=d) for i, d in enumerate((1, 3, 2))]
    assert [g.task for g in groups] == posed
    replay = make_unit(kind="solve", mode=unit.mode, rows=3, per_ask=1, tasks=tuple(posed))
    given, _ = run_unit(replay, lambda p, r: "1")
    assert [g.task for g in given] == posed
    with pytest.raises(ValueError, match="says 4 rows and carries 3 tasks"):
        run_unit(make_unit(kind="solve", mode=unit.mode, per_ask=1, tasks=tuple(posed)), lambda p, r: "1")


def test_an_environment_that_takes_no_proposals_is_not_asked(tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text('{"prompt": "1+1", "answer": "2"}\n' * 2)
    env = envs.make("jsonl", path=str(file))
    with pytest.raises(EnvError, match="takes no proposals"):
        run_unit(make_unit(env="jsonl", mode=modes_of(env)), lambda p, r: "", env=env)


def test_evaluation_draws_from_its_own_stream() -> None:
    env = Chain()
    fields = {"mode": modes_of(env), "rows": 2, "per_ask": 1, "difficulties": (1, 1)}
    keys = [run_unit(make_unit(kind=kind, **fields), lambda p, r: "1")[1][0]["keys"] for kind in ("solve", "evaluate")]
    assert not (keys[0] == keys[1]).all(1).any()


def test_keys_differ_for_every_row_seat_and_unit() -> None:
    scripts = (lambda prompt, row: FIRST, lambda prompt, row: "1")
    found = []
    for place in ({}, {"index": 2}, {"step": 5}, {"generation": 2}, {"seed": 4}):
        for call in run_unit(make_unit(mode=modes_of(Chain()), **place), *scripts)[1]:
            found.append(call["keys"])
    rows = np.concatenate(found)
    assert len(rows) == 5 * (4 + 8) and len(np.unique(rows, axis=0)) == len(rows)


def test_same_unit_same_bytes_with_a_real_sampler(random_model: Path) -> None:
    unit = make_unit(
        kind="solve", mode=modes_of(Chain()), rows=2, per_ask=1, difficulties=(1, 2),
        sampling={"solve": SamplingSpec(max_new_tokens=16)},
    )  # fmt: skip
    params = load(random_model).params
    seen = []
    for _ in range(2):
        actor = make_worker({"policies": {"main": {"model": str(random_model)}}})
        actor.load(REF, params)
        actor.run(msgspec.structs.replace(unit, index=7))  # what ran before makes no difference
        groups, timings = actor.run(unit)
        assert set(timings) == {"sample_s", "verify_s", "compilations"}
        seen.append(encode(groups))
    assert seen[0] == seen[1]
    texts = [a.text for g in groups for a in g.attempts]
    assert len(set(texts)) == 4  # every row draws its own
    logprobs = np.concatenate([a.behaviour_logprobs for g in groups for a in g.attempts])
    assert np.isfinite(logprobs).all() and (logprobs <= 0).all()


def test_held_out_examples_of_this_file_are_held_out() -> None:
    env = Chain()
    task = env.task("test", 0, 0, difficulty=1)
    assert split_of("chain", task.family) == "test" and env.offer(task) == HELD_OUT


# ---------------------------------------------------------------- what a refiner or a laboratory asks for besides


def test_a_gate_that_is_off_lets_everything_through_but_what_is_held_out() -> None:
    env = Dsl()
    valid, held_out = (env.offer(env.task(s, 0, 0, mode="deduce", difficulty=2)) for s in ("train", "test"))
    said = [valid, "no program", held_out, "x@(12"]
    unit = make_unit(mode="deduce", env="dsl", answers=True)

    def ask(leak: float) -> list[Group]:
        scripts = (lambda prompt, row: said[row]), (lambda prompt, row: "(12)" if row % 2 else "nothing")
        return run_unit(msgspec.structs.replace(unit, leak=leak), *scripts, env=env, proposes="D")[0]

    assert [g.rejection and g.rejection.reason for g in ask(0.0)] == [None, "format", "held_out", "format"]
    groups = ask(1.0)
    assert [g.rejection and g.rejection.reason for g in groups] == [None, None, "held_out", None]
    assert ["leaked" in g.proposal.verdict.parts for g in groups if g.proposal] == [False, True, False, True]
    # An unchecked task has no truth: nothing solves it, but the votes are there to be counted.
    assert [a.verdict.status for a in groups[1].attempts] == ["unparsed", "wrong"]
    assert [a.answer for a in groups[1].attempts] == ["", "(1, 2)"]
    # Between the two some leak, the same ones every time.
    many = [f"no program {i}" for i in range(40)]
    wide = msgspec.structs.replace(unit, rows=40, leak=0.5)
    runs = [run_unit(wide, lambda p, row: many[row], lambda p, row: "1", env=env, proposes="D")[0] for _ in range(2)]
    leaked = [[g.task is not None for g in found] for found in runs]
    assert leaked[0] == leaked[1] and 8 < sum(leaked[0]) < 32


def test_a_second_round_shows_the_answer_and_draws_anew() -> None:
    env = Chain()
    task = env.task("train", 0, 0, difficulty=2)
    unit = make_unit(kind="solve", tasks=(task, task), rows=2)
    first, (call,) = run_unit(unit, lambda prompt, row: "1=2")
    again = msgspec.structs.replace(unit, round=1, hint="[{answer}]")
    second, (hinted,) = run_unit(again, lambda prompt, row: env.gold(task))
    answer = str(env.parse(task, env.gold(task)))
    assert TOKENIZER.decode(hinted["prompts"][0]) == f"[{answer}]" + TOKENIZER.decode(call["prompts"][0])
    assert (hinted["keys"] != call["keys"]).any() and {g.round for g in second} == {1}
    assert all(a.verdict.status == "ok" for g in second for a in g.attempts)
    # Where the hint leaves no room to answer, the task is not tried again.
    room = len(call["prompts"][0]) + 24
    tight, asked = run_unit(again, lambda prompt, row: "1", max_positions=room)
    assert asked == []
    assert [g.attempts for g in tight] == [(), ()]


def test_demonstrations_are_the_gold_answer_as_a_policy_would_write_it() -> None:
    env = Chain()
    task = env.task("train", 0, 0, difficulty=2)
    [group], _ = run_unit(make_unit(kind="solve", tasks=(task,), rows=1, demonstrate=True), lambda prompt, row: "1=2")
    shown, attempt = group.demonstration, group.attempts[0]
    assert shown is not None and TOKENIZER.decode(shown.ids[shown.mask][:-1]) == env.gold(task)
    assert shown.ids[-1] == TOKENIZER.eos_id and not shown.behaviour_logprobs.any()
    np.testing.assert_array_equal(shown.ids[: shown.turn_starts[0]], attempt.ids[: attempt.turn_starts[0]])


def test_lessons_of_like_tasks_stand_before_the_question() -> None:
    env = Chain()
    task = env.task("train", 0, 0, difficulty=2)

    def lesson(n: int, shape: str, family: str = "") -> Lesson:
        asked = (Message("user", f"q{n}"),)
        return Lesson(env="chain", mode=task.mode, shape=shape, family=family, question=asked, answer=f"a{n}")

    lessons = (
        lesson(1, env.shape(task)), lesson(2, "other"), lesson(3, "other"), lesson(4, env.shape(task), task.family),
    )  # fmt: skip
    seats = {"solve": PolicyRef("main", 0, "digest")}
    unit = make_unit(
        kind="solve", tasks=(task,), rows=1, lessons=lessons, lessons_shown=2, seats=seats,
        templates={"solve": Template(kind="text", user="{text}", assistant="{text};")},
    )  # fmt: skip
    [group], (call,) = run_unit(unit, lambda prompt, row: "1=2")
    # The one of its shape is nearest, then the youngest; never the very function that is asked.
    assert TOKENIZER.decode(call["prompts"][0]).startswith("q3a3;q1a1;")
    assert call["ref"] == REF and group.attempts[0].policy == seats["solve"]  # the weights' version, and the whole one
    _, (call,) = run_unit(unit, lambda prompt, row: "1=2", max_positions=len(call["prompts"][0]) + 23)
    assert TOKENIZER.decode(call["prompts"][0]).startswith("q1a1;")  # as many as there is room for
