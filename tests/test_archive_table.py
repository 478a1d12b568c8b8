"""`selfplay archive RUN`: what it lists, filters and exports, and what it refuses in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import toy_env
from test_archive import group, task

from envs.base import Task
from selfplay import recipe
from selfplay.archive import TaskArchive
from selfplay.archive_table import SORTS
from selfplay.checkpoint import Generations
from selfplay.cli import main
from selfplay.config import EnvChoice, Run
from selfplay.standing import wilson


def made() -> TaskArchive:
    """Six tasks: one mastered, one impossible, one unstable, one that taught, one of another environment."""
    archive, parent = TaskArchive(10), task(1)
    hard = msgspec.structs.replace(task(2), difficulty=2, content="\x1b[2J wipe\nthe screen", origin="procedural")
    archive.record([
        group(parent, "ok", "wrong", step=1),
        group(hard, *["wrong"] * 40, step=2, proposed=False),
        group(task(3, parents=(parent.key,)), *["ok"] * 40, step=13, shape="t"),
        group(task(4, parents=(parent.key,)), *["env_error"] * 8, step=14),
        group(task(5, env="sums"), "wrong", step=15),
        group(parent, "ok", "ok", "wrong", "env_error", step=16, proposed=False),
        group(task(6, mode="deduce"), step=17),
    ])  # fmt: skip
    return archive


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with an empty archive at generation 0, that of `made` at 1, and one of an older format at 2."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    config = replace(recipe.resolve("quickstart"), envs={toy_env.NAME: EnvChoice()})
    (folder / "config.toml").write_text(recipe.to_toml(config))
    generations = Generations(folder / "generations", 3)
    old = msgspec.msgpack.encode({"format": 1, "capacity": 5, "entries": []})
    for generation, blob in enumerate((TaskArchive(5).to_bytes(), made().to_bytes(), old)):
        generations.save(generation, {"a": np.zeros(1, np.float32)}, {}, blobs={"archive": blob})
    return folder


def listed(run: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[str, list[str]]:
    """The head line, and the last column of the table: "task 3"."""
    assert main(["archive", str(run), "--generation", "1", *flags]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    return head, [line[lines[0].index("  task") + 2 :] for line in lines[1:]]


def test_the_list_counts_and_shows_the_last_first(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head, shown = listed(run, capsys)
    assert head == f"generation 1 of {run}: 6 of 6 tasks, 3 live, 1 mastered, 1 impossible, 1 unstable"
    assert shown == ["task 6", "task 1", "task 5", "task 4", "task 3", r"\u001b[2J wipe\nthe screen"]
    assert main(["archive", str(run), "--generation", "1"]) == 0
    row = next(x for x in capsys.readouterr().out.splitlines() if x.endswith("  task 1"))
    low, high = wilson(3, 5)
    assert row.split() == [
        task(1).key[:10], "toy", "solve", "1", "live", "0.60", f"{low:.2f}-{high:.2f}", "5", "2", "2", "0", "main@1",
        "task", "1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--status mastered", {3}), ("--status impossible", {2}), ("--status unstable", {4}),
        ("--status live", {1, 5, 6}), ("--env sums", {5}), ("--env toy", {1, 2, 3, 4, 6}),
        (f"--env {toy_env.NAME}", {1, 2, 3, 4, 6}), ("--difficulty 2", {2}), ("--difficulty 9", set()),
        ("--env toy --status live", {1, 6}),
    ],
)  # fmt: skip
def test_filters(flags: str, expected: set[int], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tasks.jsonl"
    head, _ = listed(run, capsys, *flags.split(), "--out", str(out))
    assert {json.loads(line)["task"]["seed"] for line in out.read_text().splitlines()} == expected
    assert f": {len(expected)} of 6 tasks, " in head and sorted(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    ("sort", "seeds"),
    [
        ("last", [6, 1, 5, 4, 3, 2]), ("first", [1, 2, 3, 4, 5, 6]), ("p", [2, 5, 1, 3, 4, 6]),
        ("attempts", [2, 3, 1, 5, 4, 6]), ("taught", [1, 2, 3, 4, 5, 6]), ("difficulty", [2, 3, 4, 5, 1, 6]),
        ("novelty", [5, 1, 2, 3, 4, 6]),
    ],
)  # fmt: skip
def test_orders(sort: str, seeds: list[int], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tasks.jsonl"
    listed(run, capsys, "--sort", sort, "--limit", "1", "--out", str(out))
    assert [json.loads(line)["task"]["seed"] for line in out.read_text().splitlines()] == seeds


def test_every_order_is_tested_above() -> None:
    assert set(SORTS) == {case[0] for case in test_orders.pytestmark[0].args[1]}


def test_a_line_holds_all_that_the_archive_knows(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tasks.jsonl"
    listed(run, capsys, "--sort", "first", "--out", str(out))
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    one, three = lines[0], lines[2]
    assert msgspec.convert(one["task"], Task) == task(1) and one["key"] == task(1).key
    assert (one["taught"], one["children"]) == (2, [task(3).key, task(4).key])
    assert three["parents"] == [task(1).key] and three["proposer"] == {"policy": "main", "version": 13}
    assert (three["generation"], three["first_step"], three["last_step"]) == (1, 13, 13)
    assert (one["p"], one["interval"]) == (0.6, pytest.approx(wilson(3, 5)))
    assert [(v["solver"]["version"], v["attempts"], v["solves"], v["unjudged"]) for v in one["by_version"]] == [
        (1, 2, 1, 0), (16, 3, 2, 1),
    ]  # fmt: skip
    assert one["by_version"][0]["interval"] == pytest.approx(wilson(1, 2))
    assert (three["shape"], three["novelty_shape"], three["novelty_cluster"]) == ("t", 1.0, 0.5)
    assert lines[5]["p"] is None and lines[5]["interval"] == [0, 1]
    explained = (Path(__file__).parent.parent / "docs" / "archive.md").read_text()
    assert [name for name in one if f"`{name}`" not in explained] == []


def test_long_lists_are_cut_and_say_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["archive", str(run), "--generation", "1", "--limit", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[-1] == "and 4 more (--limit 0 shows all, --out FILE.jsonl keeps all)"
    assert main(["archive", str(run), "--generation", "1", "--limit", "0"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 8


def test_an_empty_archive_is_no_mistake(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["archive", str(run), "--generation", "0", "--env", toy_env.NAME]) == 0
    assert capsys.readouterr().out.endswith("0 of 0 tasks, 0 live, 0 mastered, 0 impossible, 0 unstable\n")


BAD = {
    "no run": ("dne", "no run 'dne'"),
    "unknown flag": ("RUN --stauts live", "unknown argument '--stauts'; did you mean --status"),
    "status": ("RUN --status masterd", "--status masterd: did you mean mastered?"),
    "sort": ("RUN --sort size", "--sort size: valid: attempts, difficulty, first, last, novelty, p, taught"),
    "environment": ("RUN --generation 1 --env smus", "--env smus: the archive has no task of it; did you mean sums?"),
    "no number": ("RUN --difficulty hard", "invalid int value: 'hard'"),
    "limit": ("RUN --limit -1", "--limit must be >= 0, got -1"),
    "generation": ("RUN --generation 7", "has no generation 7; on disk: 0, 1, 2"),
    "older format": ("RUN", "the task archive is of format 1, this code reads format 2"),
    "out is taken": ("RUN --generation 1 --out taken", "taken exists already: choose another --out"),
    "out is nowhere": ("RUN --generation 1 --out no/tasks.jsonl", "--out no/tasks.jsonl: there is no folder no"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_nothing_written(
    case: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("mine")
    command, message = BAD[case]
    assert main(["archive", *command.replace("RUN", str(run)).split()]) == 2
    out, err = capfd.readouterr()
    assert err.startswith("selfplay: error: ") and err.count("\n") == 1 and message in err, err
    assert out == "" and [p.name for p in tmp_path.iterdir()] == ["taken"]
    assert (tmp_path / "taken").read_text() == "mine"


def test_the_settings_of_the_run_decide_what_is_retired(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (run / "config.toml").read_text()
    assert "[archive.retire]" in text
    monkeypatch.setattr(recipe, "from_toml", lambda path: _never(path))
    head, _ = listed(run, capsys)
    assert head.endswith("6 of 6 tasks, 6 live, 0 mastered, 0 impossible, 0 unstable")


def _never(path: Path) -> Run:
    flags = "--archive.retire.mastered 1 --archive.retire.impossible 0 --archive.retire.unstable 1"
    return recipe.resolve("quickstart", flags.split())
