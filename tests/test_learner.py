"""The whole loop on a tiny model: same seed, same bits, whatever the actors, the kills and the scores nobody reads."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import toy_env
from msgspec.structs import replace as replaced
from small_runs import save_random, small_run

import envs
from selfplay import actor_processes, evaluate, learner, models, recipe
from selfplay.cli import main
from selfplay.config import Run
from selfplay.errors import ActorError, CheckpointError, UserError
from selfplay.learner import Learner, train
from selfplay.metrics.files import read_metrics
from selfplay.records import Group, PolicyRef, SamplingSpec
from selfplay.sampler import LocalSampler
from selfplay.written import Completion

ROOT = Path(__file__).parent.parent
TIMES = ("time/", "perf/", "progress/minutes")
"""What differs between equal runs: times and speeds."""


@pytest.fixture(scope="module")
def small(random_model: Path) -> Run:
    """Two generations of two steps of joint propose and solve."""
    return small_run("quickstart", random_model)


@pytest.fixture(scope="module")
def straight(small: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of that run, never disturbed."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    train(small, folder)
    return folder


@pytest.fixture
def copied(straight: Path, tmp_path: Path) -> Path:
    """A copy of it to disturb."""
    return Path(shutil.copytree(straight, tmp_path / "run"))


def state_of(run: Run, folder: Path) -> tuple[list[np.ndarray], bytes, dict[str, Any]]:
    """All that the newest generation holds: arrays, archive, counters."""
    opened = Learner(run, folder)
    assert opened.restore()
    arrays = [np.asarray(x) for x in jax.tree.leaves({n: vars(p) for n, p in opened.joint.policies.items()})]
    counters = {k: v for k, v in vars(opened.state).items() if k not in ("archive", "minutes")}
    return arrays, opened.state.archive.to_bytes(), counters


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith(TIMES)} for line in lines]


def assert_same(run: Run, folder: Path, other: Path) -> None:
    """Same bits: parameters, optimizer, archive, counters, curves, tasks and transcripts."""
    (arrays, archive, counters), (arrays2, archive2, counters2) = state_of(run, folder), state_of(run, other)
    assert len(arrays) == len(arrays2) > 10
    for a, b in zip(arrays, arrays2, strict=True):
        np.testing.assert_array_equal(a, b)
    assert archive == archive2
    np.testing.assert_equal(counters, counters2)
    for one, two in zip(metrics_of(folder), metrics_of(other), strict=True):
        assert one == two
    for name in ("tasks.jsonl", "samples.jsonl"):
        assert (folder / name).read_bytes() == (other / name).read_bytes()


# ---------------------------------------------------------------- one run


@pytest.mark.parametrize(("name", "stay"), [("quickstart", []), ("quickstart-frozen", [0])])
def test_an_update_finds_no_played_weights_that_nobody_plays_again(
    name: str, stay: list[int], random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, update = [], Learner._update

    def noting(self: Learner, *args: Any) -> dict[str, float]:
        held.append(sorted(ref.version for ref in self.crew._cluster._published))  # type: ignore[attr-defined]
        return update(self, *args)

    monkeypatch.setattr(Learner, "_update", noting)
    train(small_run(name, random_model), tmp_path / "run")
    assert held == [stay] * 4


def test_a_run_learns_from_proposals_and_leaves_its_records(small: Run, straight: Path) -> None:
    steps, generations = read_metrics(straight, "step"), read_metrics(straight, "generation")
    assert [r["step"] for r in steps] == [1, 2, 3, 4] and [r["step"] for r in generations] == [0, 2, 4]
    assert [r["generation"] for r in steps] == [1, 1, 2, 2]
    assert steps[0]["propose/valid_frac"] > 0 and 0 < steps[0]["solve_rate/toy_env:Toy"] < 1
    assert all(r["policy/grad_norm"] > 0 for r in steps)
    transcripts = [json.loads(line) for line in (straight / "samples.jsonl").read_text().splitlines()]
    assert {(t["step"], t["unit"]) for t in transcripts} == {(s, u) for s in (1, 2, 3, 4) for u in (0, 1)}
    assert recipe.from_toml(straight / "config.toml") == small
    arrays, _, counters = state_of(small, straight)
    assert (counters["generation"], counters["step"], counters["tokens"]) == (2, 4, steps[-1]["tokens"])
    assert counters["tokens"] == steps[-1]["progress/tokens"] > 0
    base = jax.tree.leaves(models.load(small.policies["main"].model).params)
    assert any(not np.array_equal(a, b) for a, b in zip(base, arrays, strict=False))


@pytest.mark.parametrize(
    "actors", [pytest.param(1, marks=pytest.mark.proof), 2, pytest.param(3, marks=pytest.mark.proof)]
)
def test_any_number_of_actors_gives_the_same_bits(
    actors: int, small: Run, straight: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if actors == 2:  # the short form
        request.getfixturevalue("actors_find_programs")
    run = replace(small, cluster=replace(small.cluster, actors=actors))
    train(run, tmp_path / "run")
    assert_same(small, tmp_path / "run", straight)


def test_another_seed_gives_other_bits(small: Run, straight: Path, tmp_path: Path) -> None:
    other = replace(small, seed=1, schedule=replace(small.schedule, generations=1, steps_per_generation=1))
    train(other, tmp_path / "run")
    first, theirs = ((folder / "tasks.jsonl").read_text().splitlines()[0] for folder in (tmp_path / "run", straight))
    assert json.loads(first)["task"]["content"] != json.loads(theirs)["task"]["content"]


# ---------------------------------------------------------------- kill and resume


def start(*arguments: str) -> subprocess.Popen[str]:
    """`selfplay train ...` in a process of its own, whose programs are ours."""
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    environment = {**os.environ, "PYTHONPATH": path, "JAX_NUM_CPU_DEVICES": "8"}
    return subprocess.Popen(
        [sys.executable, "-m", "selfplay.cli", "train", *arguments],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def kill_when(process: subprocess.Popen[str], moment: Callable[[], bool], *, timeout_s: float = 240.0) -> None:
    """kill -9 as soon as the moment has come."""
    deadline = time.monotonic() + timeout_s
    while not moment():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"the moment to kill it never came: {process.communicate()[0]}")
        time.sleep(0.001)
    process.kill()
    process.communicate()


def steps_done(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_text().count('"kind":"step"') if path.exists() else 0


def begin(run: Run, folder: Path) -> list[str]:
    """The arguments that start a run in a folder, as a recipe file beside it."""
    file = folder.with_suffix(".toml")
    file.write_text(recipe.to_toml(replace(run, recipe=file.stem)))
    return [str(file), "--out", str(folder)]


def finish(folder: Path) -> Run:
    """Resume in this process, to the end."""
    run = recipe.resume(folder)
    train(run, folder, resume=True)
    return run


def test_kill_9_in_a_save_and_resume_give_the_same_bits(small: Run, straight: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    kill_when(start(*begin(small, folder)), lambda: any((folder / "generations").glob("0001*")))
    assert_same(finish(folder), folder, straight)


def test_resume_from_between_two_saves_gives_the_same_bits(small: Run, copied: Path, straight: Path) -> None:
    shutil.rmtree(copied / "generations" / "0002")
    for name in ("metrics.jsonl", "samples.jsonl"):  # the last line half-written
        (copied / name).write_bytes((straight / name).read_bytes()[:-20])
    assert steps_done(copied) == 4
    assert_same(finish(copied), copied, straight)


@pytest.mark.proof
def test_kill_9_between_two_saves(small: Run, straight: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    kill_when(start(*begin(small, folder)), lambda: steps_done(folder) >= 3)
    assert steps_done(folder) >= 3 and not (folder / "generations" / "0002" / "manifest.json").exists()
    assert_same(finish(folder), folder, straight)


@pytest.mark.proof
def test_kill_9_at_random_moments(small: Run, straight: Path, tmp_path: Path) -> None:
    run = replace(small, cluster=replace(small.cluster, actors=1))
    began = time.monotonic()
    whole = start(*begin(run, tmp_path / "whole"))
    assert whole.wait() == 0, whole.communicate()[0]
    duration = time.monotonic() - began
    rng, kills, folders = random.Random(0), 0, 0
    while kills < 12:
        folders += 1
        folder = tmp_path / f"run{folders}"
        for attempt in range(4):
            resuming = attempt > 0 and (folder / "config.toml").exists()
            process = start(*(["--out", str(folder), "--resume"] if resuming else begin(run, folder)))
            try:
                process.wait(rng.uniform(0.2, 1.0) * duration)
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                kills += 1
        if (folder / "config.toml").exists():
            assert_same(replace(finish(folder), cluster=small.cluster), folder, straight)


def test_resume_with_nothing_complete_starts_anew(small: Run, straight: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    recipe.write(small, folder)
    (folder / "metrics.jsonl").write_bytes((straight / "metrics.jsonl").read_bytes()[:-20])
    (folder / "generations" / "0000.orbax-checkpoint-tmp").mkdir(parents=True)
    train(small, folder, resume=True)
    assert_same(small, folder, straight)


def test_resume_of_a_finished_run_says_so(copied: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = {p: p.read_bytes() for p in copied.rglob("*") if p.is_file()}
    assert main(["train", "--out", str(copied), "--resume"]) == 0
    out, err = capfd.readouterr()
    assert "is finished: generation 2, step 4" in out and out.count("\n") == 1 and err == ""
    assert {p: p.read_bytes() for p in copied.rglob("*") if p.is_file()} == before


def test_resume_with_more_generations_goes_on(small: Run, copied: Path, straight: Path) -> None:
    run = recipe.resume(copied, ["--schedule.generations", "3"])
    train(run, copied, resume=True)
    assert metrics_of(copied)[: len(metrics_of(straight))] == metrics_of(straight)
    _, _, counters = state_of(run, copied)
    assert (counters["generation"], counters["step"]) == (3, 6)
    assert recipe.from_toml(copied / "config.toml").schedule.generations == 3


def test_resume_refuses_other_changes(copied: Path) -> None:
    for flag in ("--update.learning-rate 2e-3", "--acquire.units 3", "--evaluate.tasks 9", "--schedule.generations 1"):
        with pytest.raises(UserError, match=flag.split()[0][2:].replace("-", "_")):
            recipe.resume(copied, flag.split())


def damage(folder: Path, generation: int) -> None:
    """Flip one bit of the largest array file of a generation."""
    arrays = (folder / "generations" / f"{generation:04d}" / "arrays").rglob("*")
    file = max((p for p in arrays if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def test_a_damaged_generation_is_passed_over(
    small: Run, copied: Path, straight: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    damage(copied, 2)
    assert finish(copied) == small
    assert "generation 2 is damaged and passed over" in capfd.readouterr().err
    assert_same(small, copied, straight)


def test_another_environment_version_is_refused(
    small: Run, copied: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Newer(toy_env.Toy):
        def __init__(self) -> None:
            super().__init__()
            self.spec = replaced(self.spec, version="2")

    monkeypatch.setattr(toy_env, "Toy", Newer)
    before = (copied / "metrics.jsonl").read_bytes()
    assert main(["train", "--out", str(copied), "--resume", "--schedule.generations", "3"]) == 2
    err = capfd.readouterr().err
    assert "environment version of toy_env:Toy is 2 here, and 1 in the run" in err and err.count("\n") == 1
    assert (copied / "metrics.jsonl").read_bytes() == before


def test_another_model_is_refused(random_model: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(random_model, tmp_path / "model"))
    run = small_run("quickstart", model, "--schedule.generations 1 --schedule.steps-per-generation 1")
    train(run, tmp_path / "run")
    shutil.rmtree(model)
    save_random(model, seed=1)
    with pytest.raises(CheckpointError, match="model digest of main is .* start a new run"):
        train(recipe.resume(tmp_path / "run", ["--schedule.generations", "2"]), tmp_path / "run", resume=True)


# ---------------------------------------------------------------- what decides


def test_no_decision_reads_a_test_score(random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = small_run("rlvr", random_model, "--objective.follow dev")
    honest = evaluate.scores

    def altered(split: str) -> Callable[[Sequence[Group]], dict[str, float]]:
        return lambda groups: {
            k: 0.95 if f"/{split}/" in k and "/1/pass@" in k else v for k, v in honest(groups).items()
        }

    train(run, tmp_path / "honest")
    monkeypatch.setattr(evaluate, "scores", altered("test"))
    train(run, tmp_path / "test")
    monkeypatch.setattr(evaluate, "scores", altered("dev"))
    train(run, tmp_path / "dev")
    states = {name: state_of(run, tmp_path / name) for name in ("honest", "test", "dev")}
    for a, b in zip(states["honest"][0], states["test"][0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert states["honest"][1] == states["test"][1]
    assert states["honest"][2]["objective"] == states["test"][2]["objective"] != states["dev"][2]["objective"]
    for name in ("tasks.jsonl", "samples.jsonl"):
        honest_lines, test_lines, dev_lines = ((tmp_path / n / name).read_bytes() for n in states)
        assert honest_lines == test_lines
        assert name == "samples.jsonl" or test_lines != dev_lines  # of dev, what is trained on depends
    reported = [read_metrics(tmp_path / n, "generation")[-1]["eval/test/toy_env:Toy/1/pass@1"] for n in states]
    assert reported[1] == 0.95 != reported[0]


def test_a_run_stops_at_the_end_of_the_generation_that_spends_its_tokens(
    small: Run, straight: Path, tmp_path: Path
) -> None:
    spent = [r["tokens"] for r in read_metrics(straight, "generation")]
    limited = replace(small, schedule=replace(small.schedule, max_tokens=spent[1]))
    train(limited, tmp_path / "exact")
    assert [r["tokens"] for r in read_metrics(tmp_path / "exact", "generation")] == spent[:2]
    above = replace(small, schedule=replace(small.schedule, max_tokens=spent[1] + 1))
    train(above, tmp_path / "above")
    assert [r["generation"] for r in read_metrics(tmp_path / "above", "generation")] == [0, 1, 2]


def test_the_learning_rate_falls_with_steps_or_tokens_whichever_is_further(
    small: Run, straight: Path, tmp_path: Path
) -> None:
    assert small.update.decay == "linear"
    spent = [r["progress/tokens"] for r in read_metrics(straight, "step")]
    assert small.update.warmup_steps == 0
    rates = [r["optim/lr"] for r in read_metrics(straight, "step")]
    np.testing.assert_allclose(rates, small.update.learning_rate * (1 - 0.9 * np.arange(4) / 4), rtol=1e-5)
    limited = replace(small, schedule=replace(small.schedule, max_tokens=int(2 * spent[0])))
    train(limited, tmp_path / "limited")
    second = read_metrics(tmp_path / "limited", "step")[1]
    np.testing.assert_allclose(second["optim/lr"], small.update.learning_rate * (1 - 0.9 / 2), rtol=1e-5)


@pytest.mark.usefixtures("actors_find_programs")
def test_a_dead_actor_ends_the_run(
    small: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    clusters: list[Any] = []

    def opened(*args: Any, **kwargs: Any) -> Any:
        clusters.append(LocalCluster(*args, **kwargs))
        return clusters[0]

    def kill_one(*args: Any) -> Any:
        clusters[0]._actors[1].process.kill()
        return task_lines(*args)

    LocalCluster, task_lines = actor_processes.LocalCluster, learner.task_lines
    monkeypatch.setattr(actor_processes, "LocalCluster", opened)
    monkeypatch.setattr(learner, "task_lines", kill_one)  # at the end of step 1
    monkeypatch.setenv("NPROC", "2")
    folder = tmp_path / "run"
    assert main(["train", *begin(small, folder), "--cluster.actors", "2"]) == ActorError.exit_code == 1
    out, err = capfd.readouterr()
    [line] = [line for line in err.splitlines() if "error" in line]
    assert line.startswith("selfplay: error: actor 1 was killed by signal 9 (SIGKILL)")
    for actor in clusters[0]._actors:
        assert actor.process.poll() is not None and not Path(f"/proc/{actor.process.pid}").exists()
    assert Learner(small, folder).restore()  # generation 0 is there to resume from


# ---------------------------------------------------------------- what a model may write

WRITTEN: dict[str, Callable[[int, int], tuple[list[int], str]]] = {
    "nothing": lambda row, limit: ([2], "eos"),
    "endless": lambda row, limit: ([40] * limit, "length"),
    "garbage": lambda row, limit: ([0, 1, 127, 3 + row % 120, 2], "eos"),
}
"""(row, token limit) -> ids and finish; 0 pads, 1 begins, 2 ends, 127 is no character."""


@pytest.mark.parametrize("kind", WRITTEN)
@pytest.mark.parametrize("name", ["quickstart", "rlvr"])
def test_whatever_a_model_writes_the_run_goes_on(
    kind: str, name: str, random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def complete(
        self: LocalSampler, ref: PolicyRef, prompts: Sequence[Any], keys: np.ndarray, spec: SamplingSpec, *,
        attempts: int = 1,
    ) -> list[Completion]:  # fmt: skip
        done = []
        for row in range(len(prompts) * attempts):
            ids, finish = WRITTEN[kind](row, spec.max_new_tokens)
            hole = prompts[row // attempts] is None
            ids, finish = ([], "abandoned") if hole else (ids, finish)
            done.append(Completion(np.array(ids, np.int32), np.full(len(ids), -4.0, np.float32), finish))  # type: ignore
        return done

    monkeypatch.setattr(LocalSampler, "complete", complete)
    flags = "--schedule.generations 1 --roles.propose.max-new-tokens 6 --roles.solve.max-new-tokens 6"
    run = small_run(name, random_model, flags, "--update.kl.place none", env="chain")
    train(run, tmp_path / "run")
    steps = read_metrics(tmp_path / "run", "step")
    assert len(steps) == 2 and all(r["update/skipped"] > 0 for r in steps)  # nothing differs: nothing to learn
    if name == "quickstart":
        assert steps[0]["propose/valid_frac"] == 0 and steps[0]["reward/propose"] == -0.5
    else:
        assert steps[0]["solve_rate/chain"] == 0 and steps[0]["truncated_frac/solve"] == float(kind == "endless")


def test_a_random_model_on_a_hard_environment_trains_on(random_model: Path, tmp_path: Path) -> None:
    flags = "--schedule.generations 1 --roles.solve.max-new-tokens 8 --roles.solve.truncated penalty"
    train(small_run("rlvr", random_model, flags, env="chain"), tmp_path / "run")
    steps = read_metrics(tmp_path / "run", "step")
    assert len(steps) == 2 and steps[0]["truncated_frac/solve"] > 0.5


# ---------------------------------------------------------------- learning, and every recipe


def test_a_tiny_policy_learns(random_model: Path, tmp_path: Path) -> None:
    flags = "--schedule.generations 1 --schedule.steps-per-generation 36 --acquire.units 8"
    more = "--update.learning-rate 5e-3 --update.decay none --update.interference-every 0"
    train(small_run("rlvr", random_model, flags, more), tmp_path / "run")
    rewards = [r["reward/solve"] for r in read_metrics(tmp_path / "run", "step")]
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.5, rewards


def assert_path_taken(name: str, steps: list[dict[str, Any]], opened: Learner) -> None:
    """What a recipe adds to the loop was really done."""
    base = jax.tree.leaves(models.load(opened.run.policies["main"].model).params)
    same = [
        np.array_equal(a, b) for a, b in zip(base, jax.tree.leaves(opened.joint.policies["main"].params), strict=True)
    ]
    if name == "star":
        assert all(r["retry/tasks"] > 0 for r in steps)
    if name == "spin":  # log 2 where policy and opponent are one, but for the second optimizer step
        assert abs(steps[0]["policy/loss"] - np.log(2)) < 0.05 and steps[1]["policy/loss"] < steps[0]["policy/loss"]
    if name == "rzero":
        assert {e.solver.policy for e in opened.state.archive if e.solver} == {"main"}
        assert {e.proposer.policy for e in opened.state.archive if e.proposer} == {"challenger"}
        steps_taken = {n: int(p.steps) for n, p in opened.joint.policies.items()}
        assert steps_taken["challenger"] > 0 and all("vote/share" in r for r in steps)
    if name == "memory":
        assert all(same) and opened.state.memory.digest
        assert {bool(e.solver.memory) for e in opened.state.archive if e.solver} == {False, True}  # step 1, step 2
        assert len(opened.state.memory.lessons) == steps[-1]["memory/lessons"]


AZR = ("azr", "azr-frozen", "azr-python", "azr-released", "soc")
GAMES = ("fixed-opponent", "league", "spiral", "spiral-no-rae", "ppo-tictactoe")
COVERED = ("quickstart", "rlvr", "pretrained", *AZR, *GAMES)
"""Recipes whose every path through the loop another test or recipe takes; games: test_games_run.py."""


@pytest.mark.parametrize("name", [n for n in recipe.names() if n not in COVERED])
def test_every_recipe_runs(name: str, random_model: Path, straight: Path, tmp_path: Path) -> None:
    flags = ["--schedule.generations 1"] + [f"--acquire.yoked-run {straight}"] * (name == "yoked")
    flags += ["--schedule.turns.propose 1 --schedule.turns.solve 1"] * (name == "rzero")
    run = small_run(name, random_model, *flags)
    train(run, tmp_path / "run")
    steps = read_metrics(tmp_path / "run", "step")
    assert len(steps) == 2 and all(np.isfinite(r["policy/grad_norm"]) for r in steps if name != "memory")
    arrays, _, _ = state_of(run, tmp_path / "run")
    assert all(np.isfinite(a).all() for a in arrays if np.issubdtype(a.dtype, np.floating))
    opened = Learner(run, tmp_path / "run")
    assert opened.restore()
    entries = list(opened.state.archive)
    if name == "quickstart-frozen":  # the base proposes, the newest weights solve
        assert {e.proposer.version for e in entries if e.proposer} == {0}
        assert {e.solver.version for e in entries if e.solver} == {0, 1}
    assert_path_taken(name, steps, opened)
    if name == "quickstart-ppo":
        assert all("critic/explained_variance/solve" in r for r in steps)
    if name == "yoked":
        theirs = [json.loads(x) for x in (straight / "tasks.jsonl").read_text().splitlines()]
        assert {e.task.content for e in entries} <= {t["task"]["content"] for t in theirs if t["step"] <= 2}


# ---------------------------------------------------------------- alarms that act


def test_an_alarm_rolls_back_to_other_draws_and_at_last_stops(random_model: Path, tmp_path: Path) -> None:
    always = "--alarms.window 1 --alarms.most-roll-backs 1 --alarms.trivial-curriculum.limit -1"
    flags = [always, "--alarms.trivial-curriculum.action roll_back", "--update.interference-every 0"]
    run, folder = small_run("rlvr", random_model, *flags), tmp_path / "run"
    train(run, folder)
    # It rang at step 1, went back to generation 0, rang again with other tasks, and stopped in good order there.
    [step] = read_metrics(folder, "step")
    assert (step["step"], step["progress/roll_backs"], step["alarm/trivial_curriculum"]) == (1, 1, 1)
    assert [r["generation"] for r in read_metrics(folder, "generation")] == [0, 1]
    log = (folder / "log.txt").read_text()
    assert log.count("alarm trivial_curriculum rings at step 1") == 2
    opened = Learner(run, folder)
    assert opened.restore() and opened.finished()
    assert opened.state.stopped.startswith("alarm trivial_curriculum rang at step 1, after 1 roll-backs")
    assert (opened.state.roll_backs, opened.state.rolled_to, opened.state.step) == (1, 0, 1)
    tasks = (folder / "tasks.jsonl").read_text().splitlines()  # what was cut is gone
    assert len(tasks) == len(opened.state.archive) == run.acquire.units * run.acquire.tasks_per_unit
    assert opened.state.episodes == 2 * len(tasks) * run.acquire.group_size  # and what it cost is not
    before = {t.content for t in (envs.make(toy_env.NAME).task("train", i, run.seed, difficulty=1) for i in range(8))}
    assert not before & {e.task.content for e in opened.state.archive}
