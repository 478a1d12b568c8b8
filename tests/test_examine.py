"""Scores of a model or a run outside training: the table, both kinds of target, and every wrong argument."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toy_env
from small_runs import small_run

from selfplay.cli import main
from selfplay.errors import UserError
from selfplay.examine import Subject, evaluate_command, examine, table
from selfplay.learner import train
from selfplay.models import load


@pytest.fixture(scope="module")
def short(random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one step."""
    folder = tmp_path_factory.mktemp("short") / "run"
    train(small_run("rlvr", random_model, "--schedule.generations 1 --schedule.steps-per-generation 1"), folder)
    return folder


def test_examine_gives_every_k_of_every_difficulty(random_model: Path) -> None:
    run = small_run("rlvr", random_model)
    subject = Subject("base", str(random_model), load(random_model).params)
    found = examine(subject, run, tasks=4, samples=4, splits=("test", "dev"))
    env = toy_env.NAME
    cells = [f"eval/{split}/{env}/{d}" for split in ("dev", "test") for d in (1, 2)]
    expected = {f"{cell}/{name}" for cell in cells for name in ("pass@1", "pass@4", "tasks")}
    assert set(found) == expected | {f"eval/{split}/{env}/pass@{k}" for split in ("dev", "test") for k in (1, 4)}
    for cell in cells:
        assert found[f"{cell}/tasks"] == 4 and 0 < found[f"{cell}/pass@1"] < found[f"{cell}/pass@4"] <= 1
    assert found == examine(subject, run, tasks=4, samples=4, splits=("test", "dev"))


def test_the_batch_does_not_change_which_tasks_are_scored(random_model: Path) -> None:
    run = small_run("rlvr", random_model)
    run = replace(run, roles={r: replace(c, temperature=1e-6) for r, c in run.roles.items()})
    run = replace(run, evaluate=replace(run.evaluate, temperature=1e-6))  # the likeliest token, whatever the noise
    subject = Subject("base", str(random_model), load(random_model).params)
    one, four = (examine(subject, run, tasks=4, samples=n) for n in (1, 4))
    for d in (1, 2):
        cell = f"eval/test/{toy_env.NAME}/{d}"
        assert one[f"{cell}/pass@1"] == four[f"{cell}/pass@1"] == four[f"{cell}/pass@4"]


def test_a_model_folder_is_scored_alone(random_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scores.json"
    evaluate_command(str(random_model), env=toy_env.NAME, samples=4, tasks=4, out=out)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "4 samples a task, 4 tasks a difficulty"
    assert lines[2] == "| held-out | random pass@1 | random pass@4 |"
    assert [line.split(" | ")[0] for line in lines[4:]] == [
        f"| test/{toy_env.NAME}/1", f"| test/{toy_env.NAME}/2", f"| test/{toy_env.NAME}",
    ]  # fmt: skip
    kept = json.loads(out.read_text())
    assert (kept["samples"], kept["tasks"], list(kept["scores"])) == (4, 4, ["random"])
    assert np.isfinite(list(kept["scores"]["random"].values())).all()


def test_a_run_stands_beside_its_base(short: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate_command(str(short), samples=1, tasks=4)
    newest = capsys.readouterr().out
    assert "| held-out | generation 1 pass@1 | base pass@1 |" in newest
    evaluate_command(str(short), samples=1, tasks=4, generation=0)
    base = capsys.readouterr().out
    assert "| held-out | generation 0 pass@1 |\n" in base
    columns = [line.split(" | ") for line in newest.splitlines()[4:]]
    assert [row[2].rstrip(" |") for row in columns] == [
        line.split(" | ")[1].rstrip(" |") for line in base.splitlines()[4:]
    ]  # generation 0 is the untouched base


def test_one_mode_alone_is_scored(capsys: pytest.CaptureFixture[str]) -> None:
    """`tiny-dsl` is sure of small deductions; of all modes it would get two thirds at most: it knows no induction."""
    evaluate_command("tiny-dsl", env="dsl", mode="deduce", samples=1, tasks=6)
    assert float(capsys.readouterr().out.splitlines()[4].split(" | ")[1].rstrip(" |")) > 0.8


def test_a_table_by_hand() -> None:
    scores = {
        "eval/test/chain/10/pass@1": 0.25, "eval/test/chain/2/pass@1": 0.5, "eval/test/chain/pass@1": 0.375,
        "eval/test/chain/10/tasks": 8.0,
    }  # fmt: skip
    other = {name: 1.0 for name in scores}
    assert table({"new": scores, "base": other}, samples=3, tasks=8).splitlines() == [
        "3 samples a task, 8 tasks a difficulty",
        "",
        "| held-out | new pass@1 | base pass@1 |",
        "| --- | --- | --- |",
        "| test/chain/2 | 0.500 | 1.000 |",
        "| test/chain/10 | 0.250 | 1.000 |",
        "| test/chain | 0.375 | 1.000 |",
    ]


def test_bad_arguments_are_refused(random_model: Path, short: Path) -> None:
    for target, given, message in (
        (random_model, {"samples": 0}, "--samples must be >= 1, got 0"),
        (random_model, {"tasks": -1}, "--tasks must be >= 1, got -1"),
        (random_model, {"generation": 1}, "is a model: it has no generation 1"),
        (short, {"generation": 7}, "has no generation 7; on disk: 0, 1"),
        (short, {"mode": "slove"}, "--mode: environment toy.* has no mode 'slove'; did you mean solve?"),
        ("dne", {}, "no run 'dne'.* there is no model folder dne"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate_command(str(target), **given)  # type: ignore[arg-type]


def test_an_unknown_environment_is_one_line(random_model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(random_model), "--env", "chian"]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "unknown environment 'chian'; did you mean chain?" in err
