"""Games and dialogues, turn by turn: who reads what, what is kept of it, and what bots, holes and ends change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from msgspec import structs
from small_runs import RANDOM, save_random

import envs
from envs.base import Env, EnvSpec, Message, Split, Task, Turn, Verdict
from envs.kuhn import Kuhn
from selfplay.acquire import acquire
from selfplay.actor import make_speakers, make_worker
from selfplay.config import RoleConfig, Template, Update
from selfplay.match import Match
from selfplay.models import forward, load, logits, printable_ascii
from selfplay.models.sharding import make_mesh
from selfplay.play import Speaker, Voice, few
from selfplay.records import Group, Player, PolicyRef, SamplingSpec, Unit, decode, encode
from selfplay.templates import continue_ids
from selfplay.update import Updater
from selfplay.written import Completion

TOKENIZER = printable_ascii()
NOW, OLD = PolicyRef("main", 7), PolicyRef("main", 3)
ME, PAST = Player("main", 7), Player("main", 3)


@dataclass
class Held:
    """What a scripted sampler remembers of its rows."""

    ref: PolicyRef
    ids: tuple[np.ndarray, ...]


@dataclass
class Scripted:
    """A sampler that says what it is told to, given the text of a row's whole context."""

    say: Callable[[str, PolicyRef], str]
    calls: list[list[np.ndarray | None]] = field(default_factory=list)

    def start(
        self, ref: PolicyRef, prompts: Sequence[np.ndarray | None], keys: np.ndarray, spec: SamplingSpec, *,
        attempts: int = 1,
    ) -> tuple[list[Completion], Held]:  # fmt: skip
        nothing = Held(ref, (np.zeros(0, np.int32),) * (len(prompts) * attempts))
        return self.extend(nothing, [p for p in prompts for _ in range(attempts)], keys, spec)

    def complete(self, *args: Any, **kwargs: Any) -> list[Completion]:
        return self.start(*args, **kwargs)[0]

    def extend(
        self, context: Any, appended: Sequence[np.ndarray | None], keys: np.ndarray, spec: SamplingSpec
    ) -> tuple[list[Completion], Held]:
        self.calls.append(list(appended))
        done, ids = [], list(context.ids)
        for row, new in enumerate(appended):
            text = ""
            if new is not None:
                ids[row] = np.concatenate([ids[row], new])
                text = self.say(TOKENIZER.decode(ids[row]), context.ref)
            drawn = TOKENIZER.encode(text.removesuffix("~"))
            ended = new is not None and not text.endswith("~") and drawn.size < spec.max_new_tokens
            drawn = np.append(drawn, TOKENIZER.eos_id).astype(np.int32) if ended else drawn
            ids[row] = np.concatenate([ids[row], drawn])
            finish = "abandoned" if new is None else "eos" if ended else "length"
            done.append(Completion(drawn, np.full(drawn.size, -0.5, np.float32), finish))  # type: ignore[arg-type]
        return done, Held(context.ref, tuple(ids))


def unit_of(rows: int, players: Sequence[Player] = (ME, ME), *, tokens: int = 2, **fields: Any) -> Unit:
    return Unit(**{
        "seed": 0, "generation": 1, "step": 8, "index": 0, "kind": "play", "env": "kuhn", "mode": "solve",
        "rows": rows, "difficulties": (1,) * rows, "seats": {"play": NOW},
        "sampling": {"play": SamplingSpec(max_new_tokens=tokens)}, "players": (tuple(players),) * rows, **fields,
    })  # fmt: skip


def played(unit: Unit, say: Callable[[str, PolicyRef], str], env: Env | None = None) -> tuple[list[Group], Scripted]:
    sampler = Scripted(say)
    speaker = Speaker(sampler, TOKENIZER, 256)  # type: ignore[arg-type]
    groups, _ = acquire(unit, env or envs.make(unit.env), {"main": speaker})
    return groups, sampler


def test_a_seat_reads_what_is_new_to_it_and_keeps_what_it_wrote() -> None:
    moves = {1: "p", 2: "b", 3: "b"}  # by what was read: a card; card and check; card, own check, bet

    groups, sampler = played(unit_of(4), lambda read, ref: moves[len(read)])
    for group in groups:
        first, second = group.attempts
        card = TOKENIZER.decode(first.ids[:2])
        assert TOKENIZER.decode(first.ids) == f"{card}pbb" and TOKENIZER.decode(second.ids)[1:] == "pb"
        assert first.turn_starts == (2, 5) and second.turn_starts == (3,)
        assert first.finish == ("eos", "eos") and first.ids[3] == TOKENIZER.eos_id  # as it was sampled
        np.testing.assert_array_equal(np.flatnonzero(first.mask), [2, 3, 5, 6])
        np.testing.assert_array_equal(first.behaviour_logprobs, np.where(first.mask, np.float32(-0.5), 0))
        assert (first.seat, second.seat, first.role, first.policy) == (0, 1, "play", NOW)
        assert first.verdict.reward == -second.verdict.reward and abs(first.verdict.reward) == 2
        assert group.games[0].moves == 3 and group.players == (ME, ME)
        assert [v.reward for v in group.games[0].verdicts] == [first.verdict.reward, second.verdict.reward]
    assert decode(encode(groups), list[Group])[0].players == (ME, ME)
    assert [sum(a is not None for a in call) for call in sampler.calls] == [0, 4, 0, 4, 4]  # two contexts, three plies


def test_an_illegal_move_ends_the_game_before_the_other_seat_has_written() -> None:
    groups, _ = played(unit_of(2), lambda read, ref: "x")
    for group in groups:
        [only] = group.attempts
        assert only.verdict.status == "illegal" and only.verdict.reward == -3  # SPIRAL's -1.5, in units of two chips
        assert [v.reward for v in group.games[0].verdicts] == [-3, 1] and group.games[0].moves == 1


def test_a_move_that_is_cut_off_is_none_but_a_turn_of_one_token_is_whole() -> None:
    [cut], _ = played(unit_of(1), lambda read, ref: "pp")  # two tokens and no end
    assert cut.attempts[0].verdict.status == "illegal" and cut.attempts[0].truncated
    [whole], _ = played(unit_of(1, tokens=1), lambda read, ref: "p")
    assert whole.games[0].moves == 2 and not whole.attempts[0].truncated
    assert whole.attempts[0].finish == ("stop",) and int(whole.attempts[0].mask.sum()) == 1


def test_versions_and_bots_at_a_table_each_speak_for_themselves() -> None:
    line_ups = ((ME, PAST), (PAST, ME), (Player(bot="random"), ME), (ME, Player(bot="random")))
    unit = unit_of(4, tokens=1, attempts=3)
    unit = Unit(**{f: getattr(unit, f) for f in unit.__struct_fields__} | {
        "players": line_ups, "learners": ((0,), (1,), (1,), (0,)),
    })  # fmt: skip
    groups, _ = played(unit, lambda read, ref: "b" if ref == NOW else "p")
    for group, line_up, learner in zip(groups, line_ups, (0, 1, 1, 0), strict=True):
        assert group.players == line_up and len(group.games) == 3
        for t in group.attempts:
            player = line_up[t.seat]
            assert t.policy == PolicyRef(player.policy, player.version) and t.trainable == (t.seat == learner)
            written = TOKENIZER.decode(t.ids[t.mask])
            assert set(written) == ({"b"} if player == ME else {"p"})
    assert all(t.policy == NOW for g in groups[2:] for t in g.attempts)  # a bot writes no tokens
    again, _ = played(unit, lambda read, ref: "b" if ref == NOW else "p")
    assert encode(again) == encode(groups)  # bots draw from the unit


def test_of_more_games_than_slots_the_next_begins_when_one_is_over() -> None:
    spec = SamplingSpec(max_new_tokens=1, slots=8)
    say = lambda read, ref: "pb"[len(read) % 2]  # noqa: E731
    few_at_once, sampler = played(unit_of(20, sampling={"play": spec}), say)
    at_once, _ = played(unit_of(20, tokens=1), say)
    assert [g.games for g in few_at_once] == [g.games for g in at_once]
    assert max(sum(a is not None for a in call) for call in sampler.calls) == 8


class Clue:
    """A dialogue: the first answer earns a clue, the second is judged."""

    spec = EnvSpec(name="clue", version="1", max_new_tokens=4)

    def task(self, split: Split, index: int, seed: int, **_: Any) -> Task:
        return Task(
            env="clue", env_version="1", split=split, seed=seed, index=index, mode="solve", difficulty=1, prompt=(),
            payload={}, content=str(index), family=str(index),
        )  # fmt: skip

    def size(self, split: Split) -> None:
        return None

    def open(self, task: Task) -> Clue.Dialogue:
        return Clue.Dialogue()

    class Dialogue:
        def __init__(self) -> None:
            self.said: list[str] = []

        def turn(self) -> Turn | None:
            text = ("say a", "no, b")[len(self.said) % 2]
            return Turn(seat=0, new_messages=(Message("user", text),)) if len(self.said) < 2 else None

        def act(self, seat: int, text: str) -> None:
            self.said.append(text)

        def verdicts(self) -> tuple[Verdict, ...]:
            return (Verdict(1.0, "ok") if self.said[-1] == "b" else Verdict(0.0, "wrong"),)

        def close(self) -> None: ...


def test_tasks_of_several_turns_are_solved_the_same_way() -> None:
    template = Template(kind="text")
    spec = SamplingSpec(max_new_tokens=4, stop=template.stops)
    unit = unit_of(
        2, kind="solve", seats={"solve": NOW}, sampling={"solve": spec}, players=(), attempts=2,
        templates={"solve": template},
    )  # fmt: skip
    unit = Unit(**{f: getattr(unit, f) for f in unit.__struct_fields__} | {"players": ()})
    groups, sampler = played(unit, lambda read, ref: " b" if "no" in read else " a", Clue())
    assert len(sampler.calls) == 2
    for group in groups:
        assert group.solve_rate == 1 and len(group.attempts) == 2
        for t in group.attempts:
            assert TOKENIZER.decode(t.ids) == "Q: say a\nA: a\nQ: no, b\nA: b" and len(t.turn_starts) == 2
            assert t.role == "solve" and t.task_key == (group.task and group.task.key)
    cut, _ = played(unit, lambda read, ref: " b" if "no" not in read else " b~", Clue())
    assert {(t.verdict.status, t.verdict.reward) for g in cut for t in g.attempts} == {("wrong", 0.0)}


class Curt(Clue):
    """The same dialogue, whose first turn ends at a semicolon and whose second has room for two tokens."""

    class Dialogue(Clue.Dialogue):
        def turn(self) -> Turn | None:
            turn = super().turn()
            limits: dict[str, Any] = {"max_new_tokens": 2} if self.said else {"max_new_tokens": 9, "stop": (";",)}
            return turn and Turn(seat=0, new_messages=turn.new_messages, **limits)

    def open(self, task: Task) -> Clue.Dialogue:
        return Curt.Dialogue()


def test_a_turn_may_have_limits_of_its_own() -> None:
    asked: list[SamplingSpec] = []

    class Noting(Scripted):
        def extend(self, context: Any, appended: Any, keys: np.ndarray, spec: SamplingSpec) -> Any:
            asked.append(spec)
            return super().extend(context, appended, keys, spec)

    spec = SamplingSpec(max_new_tokens=4, stop=("\n",), temperature=0.5)
    unit = unit_of(1, kind="solve", seats={"solve": NOW}, sampling={"solve": spec}, players=())
    unit = Unit(**{f: getattr(unit, f) for f in unit.__struct_fields__} | {"players": ()})
    sampler = Noting(lambda read, ref: "b" if "no" in read else "a;")
    [group], _ = acquire(unit, Curt(), {"main": Speaker(sampler, TOKENIZER, 256)})  # type: ignore[arg-type]
    assert [(s.max_new_tokens, s.stop, s.temperature) for s in asked] == [(4, ("\n", ";"), 0.5), (2, ("\n",), 0.5)]
    assert group.solve_rate == 1


def test_an_episode_that_no_longer_fits_the_model_is_not_judged() -> None:
    sampler = Scripted(lambda read, ref: "p")
    speaker = Speaker(sampler, TOKENIZER, 4)  # type: ignore[arg-type]
    [group], _ = acquire(unit_of(1), envs.make("kuhn"), {"main": speaker})
    assert {v.status for v in group.games[0].verdicts} == {"env_error"} and group.games[0].moves == 1


@pytest.mark.parametrize(
    ("written", "eos", "expected"),
    [(" b\n", False, "Q: c\nA:"), (" b", True, "\nQ: c\nA:"), (" b", False, "\nQ: c\nA:")],
)
def test_what_is_appended_closes_an_answer_once(written: str, eos: bool, expected: str) -> None:
    ids = continue_ids(Template(kind="text"), TOKENIZER, (Message("user", "c"),), written=written, eos=eos)
    assert TOKENIZER.decode(ids) == expected


def test_the_number_of_shapes_is_small() -> None:
    assert [few(n) for n in (1, 8, 9, 13, 17, 25, 256, 257)] == [8, 8, 12, 16, 24, 32, 256, 384]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random(tmp_path_factory.mktemp("model"))


def test_logprobs_of_every_turn_equal_a_fresh_forward(model: Path) -> None:
    """Of games of different lengths, so that later plies have few rows and continue what lay aside."""
    worker, opened = make_worker({"policies": {"main": {"model": str(model)}}}), load(str(model))
    worker.load(NOW, opened.params)
    unit = unit_of(24, tokens=2, options={"retries": 1})
    groups, _ = worker.run(unit)
    again, _ = worker.run(unit)
    assert encode(groups) == encode(again)
    several = 0
    score = jax.jit(lambda ids: jax.nn.log_softmax(logits(RANDOM, opened.params, _hidden(opened.params, ids))))
    trajectories = [t for g in groups for t in g.attempts]
    ids = np.zeros((len(trajectories), 16), np.int32)
    for row, t in enumerate(trajectories):
        ids[row, : len(t.ids)] = t.ids
    found = np.asarray(score(ids))
    for row, t in enumerate(trajectories):
        several += len(t.turn_starts) > 1
        for place in np.flatnonzero(t.mask):
            expected = found[row, place - 1, t.ids[place]]
            np.testing.assert_allclose(t.behaviour_logprobs[place], expected, atol=1e-4)
    assert several >= 8


def _hidden(params: Any, ids: jax.Array) -> jax.Array:
    rows, width = ids.shape
    positions = np.broadcast_to(np.arange(width), (rows, width))
    return forward(RANDOM, params, ids, positions, np.ones((rows, width), np.int32))


class Terse(Kuhn):
    """Rules that fit a small model."""

    def rules(self, seat: int) -> str:
        return "Bet?"


@pytest.mark.parametrize(
    ("tokens", "form", "template"),
    [(1, "compact", Template()), (9, "words", Template(kind="text"))],
)
def test_a_seat_held_to_legal_moves_writes_nothing_else(
    model: Path, tokens: int, form: str, template: Template
) -> None:
    """And the learner finds the log-probabilities that the sampler had, among the same candidates."""
    speakers, opened = make_speakers({"policies": {"main": {"model": str(model)}}}), load(str(model))
    speakers["main"].sampler.load(NOW, opened.params)
    spec = SamplingSpec(max_new_tokens=tokens, constrain="legal", temperature=0.5, stop=template.stops)
    unit = unit_of(16, sampling={"play": spec}, templates={"play": template})
    groups, _ = acquire(unit, Terse(form=form), speakers)
    trajectories = [t for g in decode(encode(groups), list[Group]) for t in g.attempts]
    assert {v.status for g in groups for v in g.games[0].verdicts} == {"ok"}
    assert len({t.ids.tobytes() for t in trajectories}) > 8 and not any(t.truncated for t in trajectories)
    assert max(len(t.turn_starts) for t in trajectories) == 2
    for t in trajectories:
        assert t.kept is not None and (t.kept == t.ids[t.mask][:, None]).any(1).all()
    roles = {"play": RoleConfig(temperature=0.5)}
    learner = Updater(opened.config, Update(row_tokens=64), roles, make_mesh())
    for t, scored in zip(trajectories, learner.logprobs(opened.params, trajectories), strict=True):
        np.testing.assert_allclose(t.behaviour_logprobs, scored, atol=1e-5)
        free = structs.replace(t, kept=None)
        assert learner.logprobs(opened.params, [free])[0].sum() < scored.sum() if t is trajectories[0] else True


def test_a_turn_without_legal_moves_cannot_be_held_to_them() -> None:
    match = Match(0, Clue().task("train", 0, 0), (ME,))
    match.begin(Clue())
    unit = unit_of(1, sampling={"play": SamplingSpec(max_new_tokens=4, constrain="legal")})
    voice = Voice(unit, "play", ME, 0, Speaker(Scripted(lambda read, ref: ""), TOKENIZER, 256), [match])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="environment clue does not say which moves are legal"):
        voice.moves(match)
