"""The conformance kit: does an environment keep its promises? `selfplay envs check NAME` prints it."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar

import msgspec

import envs
from envs.base import (
    REASONS,
    SPLITS,
    STATUSES,
    Env,
    Episode,
    Proposable,
    Rejection,
    Split,
    Task,
    Verdict,
    Verifiable,
)
from envs.check_games import illegal, views
from envs.check_parallel import parallel
from envs.fresh import Place, identity, keys_in_fresh_process
from envs.junk import HUGE, JUNK
from envs.promises import Broken, Skip, need

T = TypeVar("T")

Outcome = Literal["pass", "fail", "skip"]

HUGE_LIMIT_S = 1.0
MAX_TURNS = 10_000


class Check(msgspec.Struct, frozen=True):
    """One promise and whether it is kept."""

    name: str
    outcome: Outcome
    detail: str


class Report(msgspec.Struct, frozen=True):
    """What the kit found."""

    env: str
    checks: tuple[Check, ...]
    p95_ms: dict[str, float]
    """95th percentile of the time of one call, milliseconds, by method."""

    @property
    def ok(self) -> bool:
        """No check failed."""
        return all(check.outcome != "fail" for check in self.checks)

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that failed."""
        return tuple(check.name for check in self.checks if check.outcome == "fail")

    def lines(self) -> list[str]:
        """One line a check, then the verdict."""
        shown = [f"{check.outcome:4}  {check.name:13}  {check.detail}" for check in self.checks]
        verdict = "all checks pass" if self.ok else f"failed: {', '.join(self.failed)}"
        return [*shown, f"{self.env}: {verdict}"]


def check(
    env: Env | str,
    *,
    options: Mapping[str, Any] | None = None,
    tasks: int = 50,
    seed: int = 0,
    limit_ms: float | None = None,
) -> Report:
    """Run every check on an environment.

    Args:
      env: a name as in `envs.make`, or an environment (its class must be importable in another process).
      options: what it was made with.
      tasks: tasks drawn in each split.
      seed: of the draws.
      limit_ms: the 95th percentile of task, verify and admit must stay below it; None = `spec.p95_ms`.
    """
    given = dict(options or {})
    if isinstance(env, str):
        kit = _Kit(envs.make(env, **given), env, given, tasks, seed, limit_ms)
    else:
        target = f"{type(env).__module__}:{type(env).__qualname__}"
        kit = _Kit(env, target, given, tasks, seed, limit_ms)
    checks = tuple(_outcome(name, run, kit) for name, run in CHECKS.items())
    return Report(kit.env.spec.name, checks, kit.p95_ms())


def _outcome(name: str, run: Callable[[_Kit], str], kit: _Kit) -> Check:
    """An environment under test may raise anything at all, and that is a finding, not a crash of the kit."""
    try:
        return Check(name, "pass", run(kit))
    except Skip as why:
        return Check(name, "skip", str(why))
    except Broken as why:
        return Check(name, "fail", str(why))
    except Exception as error:  # noqa: BLE001 - see above
        return Check(name, "fail", " ".join(f"raised {type(error).__name__}: {error}".split())[:300])


class _Kit:
    """The environment under test, how to make it again, and the samples that all checks share."""

    def __init__(
        self, env: Env, target: str, options: dict[str, Any], count: int, seed: int, limit_ms: float | None
    ) -> None:
        self.env, self.target, self.options = env, target, options
        self.count, self.seed, self.limit_ms = count, seed, env.spec.p95_ms if limit_ms is None else limit_ms
        self.times: dict[str, list[float]] = {}
        self._samples: list[Task] = []

    @property
    def samples(self) -> list[Task]:
        """`count` tasks of each split, round all modes and difficulties; drawn when first needed."""
        if not self._samples:
            self._samples = [
                self.timed("task", self.env.task, split, index, self.seed, mode=mode, difficulty=difficulty)
                for split, index, mode, difficulty in self.places()
            ]
        return self._samples

    def places(self) -> Iterator[Place]:
        """Where the samples lie: every mode is met, and every difficulty as far as the count allows."""
        spec = self.env.spec
        for split in spec.splits or ("train",):
            for index in range(self.count):
                yield split, index, spec.modes[index % len(spec.modes)], self._difficulty(split, index)

    def _difficulty(self, split: Split, index: int) -> int | None:
        """Difficulties in turn where every split has all of them, as endless ones do; else left to the environment."""
        spec = self.env.spec
        return None if self.env.size(split) is not None else spec.difficulties[index % len(spec.difficulties)]

    def timed(self, name: str, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        start = time.perf_counter()
        result = call(*args, **kwargs)
        self.times.setdefault(name, []).append(1e3 * (time.perf_counter() - start))
        return result

    def p95_ms(self) -> dict[str, float]:
        return {name: sorted(ms)[math.ceil(0.95 * len(ms)) - 1] for name, ms in self.times.items()}

    def verifiable(self) -> Verifiable:
        if not isinstance(self.env, Verifiable):
            raise Skip("no verify(): judged by its episodes alone")
        return self.env

    def proposable(self) -> Proposable:
        if not isinstance(self.env, Proposable):
            raise Skip("not proposable")
        return self.env


def _spec(kit: _Kit) -> str:
    spec = kit.env.spec
    low, high = spec.reward_range
    need(bool(spec.name and spec.version), "spec needs a name and a version")
    need(bool(spec.modes) and len(set(spec.modes)) == len(spec.modes), f"modes must be distinct, got {spec.modes}")
    need(
        bool(spec.difficulties) and all(a < b for a, b in zip(spec.difficulties, spec.difficulties[1:], strict=False)),
        f"difficulties must ascend, got {spec.difficulties}",
    )
    need(
        math.isfinite(low) and math.isfinite(high) and low < high, f"reward_range must be low < high, got {low}, {high}"
    )
    need(all(split in SPLITS for split in spec.splits), f"splits must be among {SPLITS}, got {spec.splits}")
    need(spec.seats >= 1 and spec.max_new_tokens >= 1, "seats and max_new_tokens must be 1 or more")
    return (
        f"{spec.name} {spec.version}, {len(spec.difficulties)} difficulties, splits {' '.join(spec.splits) or 'none'}"
    )


def _tasks(kit: _Kit) -> str:
    spec = kit.env.spec
    for (split, index, mode, difficulty), task in zip(kit.places(), kit.samples, strict=True):
        need(isinstance(task, Task), f"task() must return a Task, got {type(task).__name__}")
        want = (spec.name, spec.version, split, index, mode)
        got = (task.env, task.env_version, task.split, task.index, task.mode)
        need(got == want, f"task says {got}, expected {want}")
        wanted = spec.difficulties if difficulty is None else (difficulty,)
        need(
            task.difficulty in wanted,
            f"difficulty {task.difficulty}, expected {difficulty or 'one of spec.difficulties'}",
        )
        need(bool(task.prompt) or spec.seats > 1, "the prompt is empty")
        need(bool(task.content and task.family), "content and family must be texts that are not empty")
        copy = msgspec.msgpack.decode(msgspec.msgpack.encode(task), type=Task)
        need(copy == task, f"payload must be plain data (lists, no tuples or objects): {task.payload!r}"[:200])
    return f"{len(kit.samples)} tasks say where they come from, and survive the wire"


def _deterministic(kit: _Kit) -> str:
    keys = [identity(kit.env, task) for task in kit.samples]
    for (split, index, mode, difficulty), task in zip(kit.places(), kit.samples, strict=True):
        again = kit.env.task(split, index, kit.seed, mode=mode, difficulty=difficulty)
        need(again == task, f"{split} task {index} differs when asked for again")
    other = keys_in_fresh_process(kit.target, kit.options, kit.seed, list(kit.places()))
    need(not isinstance(other, str), f"a fresh process fails: {other}")
    wrong = sum(a != b for a, b in zip(keys, other, strict=True))
    need(not wrong, f"{wrong} of {len(keys)} keys differ in a fresh process: randomness must come from Task.seed")
    return f"{len(keys)} tasks are the same again, and in a fresh process"


def _splits(kit: _Kit) -> str:
    if not kit.env.spec.splits:
        raise Skip("declares no splits")
    home: dict[str, Split] = {}
    for task in kit.samples:
        split = home.setdefault(task.family, task.split)
        need(split == task.split, f"family {task.family[:80]!r} is in {split} and in {task.split}")
    return f"{len(home)} families, none in two splits"


def _gold(kit: _Kit) -> str:
    env, known = kit.verifiable(), 0
    full = env.spec.reward_range[1]
    for task in kit.samples:
        gold = env.gold(task)
        if gold is None:
            continue
        known += 1
        verdict = kit.timed("verify", env.verify, task, gold)
        need(
            verdict.status == "ok" and verdict.reward == full, f"gold {gold[:80]!r} of {task.content[:80]!r}: {verdict}"
        )
        need(env.parse(task, gold) is not None, f"gold {gold[:80]!r} is not parsed")
    if not known:
        raise Skip("gold() knows no answer")
    return f"{known} gold answers have reward {full:g}"


def _junk(kit: _Kit) -> str:
    env, slowest = kit.verifiable(), 0.0
    full = env.spec.reward_range[1]
    few = kit.samples[:: max(1, len(kit.samples) // 6)]
    for task in few:
        for text in JUNK + HUGE:
            start = time.perf_counter()
            verdict = _on(text, env.verify, task, text)
            slowest = max(slowest, time.perf_counter() - start)
            scored = verdict.reward >= full or verdict.status == "ok"
            need(not scored, f"{_show(text)} scores full on {task.content[:80]!r}")
    need(slowest < HUGE_LIMIT_S, f"verify took {slowest:.1f} s on one text of 100,000 characters")
    texts = len(JUNK) + len(HUGE)
    return f"{texts} junk texts on {len(few)} tasks: none raises or scores full, {slowest * 1e3:.0f} ms at most"


def _rewards(kit: _Kit) -> str:
    env, seen = kit.verifiable(), set()
    for task in kit.samples:
        gold = env.gold(task)
        for text in (JUNK[2], *(() if gold is None else (gold, gold + " 1", gold[:-1]))):
            verdict = env.verify(task, text)
            _need_verdict(kit, verdict)
            need(
                env.verify(task, text) == verdict,
                f"verify is not pure: {_show(text)} got another verdict the second time",
            )
            seen.add(verdict.reward)
    return f"rewards {', '.join(f'{reward:g}' for reward in sorted(seen))}"


def _episodes(kit: _Kit) -> str:
    turns = 0
    for task in kit.samples:
        verdicts, played = _play(kit, task)
        turns += played
        need(len(verdicts) == kit.env.spec.seats, f"{len(verdicts)} verdicts for {kit.env.spec.seats} seats")
        for verdict in verdicts:
            _need_verdict(kit, verdict)
    return f"{len(kit.samples)} episodes end, {turns} turns"


def _zero_sum(kit: _Kit) -> str:
    if not kit.env.spec.zero_sum:
        raise Skip("not zero-sum")
    for task in kit.samples:
        verdicts, _ = _play(kit, task)
        total = sum(verdict.reward for verdict in verdicts)
        need(abs(total) < 1e-9, f"rewards of legal play sum to {total:g} on {task.content[:80]!r}")
    return f"{len(kit.samples)} games of legal play sum to 0"


def _admit(kit: _Kit) -> str:
    env = kit.proposable()
    own = [task for task in kit.samples if task.split == "train"]
    for task in kit.samples:
        _admit_sample(kit, env, task, own[:2])
    for mode in env.spec.modes:
        need(bool(env.ask(mode, own[:2], kit.seed)), "ask() gives no message")
        for text in JUNK + HUGE:
            found = _on(text, env.admit, mode, text, (), kit.seed)
            if isinstance(found, Rejection):
                need(found.reason in REASONS, f"reason {found.reason!r} is not one of {', '.join(REASONS)}")
            else:
                need(isinstance(found, Task) and bool(text.strip()), f"admit of {_show(text)} gives {found!r}"[:300])
    return f"{len(own)} own samples admitted, {len(kit.samples) - len(own)} held out, junk turned down by name"


def _admit_sample(kit: _Kit, env: Proposable, task: Task, shown: list[Task]) -> None:
    """A sample of `train` comes back as the same task; one of `dev` or `test` is turned down as held out."""
    offer = env.offer(task)
    found = kit.timed("admit", env.admit, task.mode, offer, shown, kit.seed)
    if task.split != "train":
        held_out = isinstance(found, Rejection) and found.reason == "held_out"
        need(held_out, f"a {task.split} task must be turned down as held_out, {offer[:80]!r} gives {found}"[:300])
        return
    if not isinstance(found, Task):
        raise Broken(f"admit turns down its own sample {offer[:80]!r}: {found}"[:300])
    need(found.key == task.key, f"admit of {offer[:80]!r} gives another key than the sample has")
    need(found.family == task.family, f"admit of {offer[:80]!r} gives another family than the sample has")
    place = (found.split, found.index, found.origin)
    need(place == ("train", -1, "proposed"), f"an admitted task must say train, -1, proposed; it says {place}")
    need(found.parents == tuple(t.key for t in shown), "parents must be the keys of the shown tasks")


def _time(kit: _Kit) -> str:
    kit.samples  # noqa: B018  (drawn, so that there is something to time)
    p95 = kit.p95_ms()
    for name, ms in p95.items():
        need(ms <= kit.limit_ms, f"p95 of {name} is {ms:.1f} ms, limit {kit.limit_ms:g} ms")
    return "p95 " + ", ".join(f"{name} {ms:.3f} ms" for name, ms in p95.items())


CHECKS: dict[str, Callable[[_Kit], str]] = {
    "spec": _spec,
    "tasks": _tasks,
    "deterministic": _deterministic,
    "splits": _splits,
    "gold": _gold,
    "junk": _junk,
    "rewards": _rewards,
    "episodes": _episodes,
    "zero_sum": _zero_sum,
    "views": lambda kit: views(kit.env, kit.samples),
    "illegal": lambda kit: illegal(kit.env, kit.samples),
    "admit": _admit,
    "parallel": lambda kit: parallel(kit.env, lambda: envs.make(kit.target, **kit.options), kit.samples),
    "time": _time,
}


def _play(kit: _Kit, task: Task) -> tuple[tuple[Verdict, ...], int]:
    """One episode: a legal move by seeded chance where moves are listed, else the gold answer, else junk."""
    rng = random.Random(task.seed)
    gold = kit.env.gold(task) if isinstance(kit.env, Verifiable) else None
    episode: Episode = kit.env.open(task)
    played = 0
    try:
        while (turn := episode.turn()) is not None:
            need(0 <= turn.seat < kit.env.spec.seats, f"turn of seat {turn.seat}, of {kit.env.spec.seats}")
            need(played < MAX_TURNS, f"an episode goes on after {MAX_TURNS} turns")
            episode.act(turn.seat, rng.choice(turn.legal) if turn.legal else (gold or JUNK[2]))
            played += 1
        need(played > 0, "an episode is over before its first turn")
        return episode.verdicts(), played
    finally:
        episode.close()


def _need_verdict(kit: _Kit, verdict: Verdict) -> None:
    low, high = kit.env.spec.reward_range
    need(isinstance(verdict, Verdict), f"expected a Verdict, got {type(verdict).__name__}")
    need(low <= verdict.reward <= high, f"reward {verdict.reward!r} outside {low:g} to {high:g}")
    need(verdict.status in STATUSES, f"status {verdict.status!r} is not one of {', '.join(STATUSES)}")


def _on(text: str, call: Callable[..., T], *args: Any) -> T:
    """The call's result; what it raises is told with the text that made it raise."""
    try:
        return call(*args)
    except Exception as error:  # noqa: BLE001 - whatever it is, the environment must not raise on a model's text
        raise Broken(f"raises {type(error).__name__} on {_show(text)}: {error}"[:300]) from error


def _show(text: str) -> str:
    return f"{text[:24]!a}{f'... ({len(text)} characters)' if len(text) > 24 else ''}"
