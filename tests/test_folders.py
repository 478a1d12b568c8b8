"""Runs by path and by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfplay import folders
from selfplay.errors import UserError


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("runs/quickstart", "runs/quickstart-2", "runs/quickstart-10", "runs/quickstart-ppo", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / folders.CONFIG).touch()
    return tmp_path


def test_a_run_is_found_by_path_and_by_name(runs: Path) -> None:
    assert folders.find_run("elsewhere") == Path("elsewhere")
    assert folders.find_run("quickstart-2") == Path("runs/quickstart-2")
    assert folders.find_run("runs/quickstart") == Path("runs/quickstart")
    with pytest.raises(UserError, match="no run 'quikstart'; under runs/: did you mean quickstart"):
        folders.find_run("quikstart")


def test_numbers_count_on_and_the_newest_is_the_highest(runs: Path) -> None:
    assert folders.new_run("quickstart", None) == Path("runs/quickstart-3")
    assert folders.new_run("rlvr", None) == Path("runs/rlvr")
    assert folders.latest_run("quickstart") == Path("runs/quickstart-10")
    assert folders.latest_run("quickstart-ppo") == Path("runs/quickstart-ppo")


def test_a_folder_that_holds_something_is_not_taken(runs: Path) -> None:
    with pytest.raises(UserError, match="add --resume"):
        folders.new_run("quickstart", Path("elsewhere"))
    (runs / "empty").mkdir()
    assert folders.new_run("quickstart", Path("empty")) == Path("empty")
    (runs / "empty" / folders.PART).touch()  # a run killed before its config was in place
    assert folders.new_run("quickstart", Path("empty")) == Path("empty")
    (runs / "file").touch()
    with pytest.raises(UserError, match="file exists already: choose another"):
        folders.new_run("quickstart", Path("file"))


def test_a_folder_below_a_file_is_refused(runs: Path) -> None:
    (runs / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made: .*file is no folder"):
        folders.new_run("quickstart", runs / "file" / "run")
