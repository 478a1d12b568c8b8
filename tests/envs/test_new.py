"""What `envs.new` writes works as it is written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from envs.base import EnvUserError
from envs.check import check
from envs.new import class_name, new

ROOT = Path(__file__).resolve().parents[2]


def test_its_own_test_passes_in_its_own_folder(tmp_path: Path) -> None:
    files = new("word_ladder", tmp_path / "mine")
    assert [file.name for file in files] == ["word_ladder.py", "test_word_ladder.py"]
    text = "".join(file.read_text() for file in files)
    assert "class WordLadder(SingleTurn)" in text and "my_env" not in text and "MyEnv" not in text
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
        cwd=tmp_path / "mine",
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout + done.stderr


def test_it_conforms_as_a_scratch_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new("backwards", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    report = check("backwards:Backwards", tasks=10)
    assert report.ok and report.env == "backwards", "\n".join(report.lines())


@pytest.mark.parametrize("name", ["", "Word", "9lives", "a-b", "a b", "a/b", "../a", "a" * 41, "caf\u00e9", "a\n"])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(EnvUserError, match=r"must be 1 to 40 of a-z, 0-9 and _") as raised:
        new(name, tmp_path)
    assert "\n" not in str(raised.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["class", "json", "envs", "selfplay", "pytest"])
def test_a_name_that_is_taken_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(EnvUserError, match=f"'{name}' is taken .* my_{name}"):
        new(name, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("file", ["mine.py", "test_mine.py"])
def test_nothing_is_overwritten(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_text("precious")
    with pytest.raises(EnvUserError, match=re.escape(f"{tmp_path / file} exists already; nothing was written")):
        new("mine", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [file] and (tmp_path / file).read_text() == "precious"


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvUserError, match="is not a folder"):
        new("mine", tmp_path / "file")


def test_class_names() -> None:
    assert [class_name(name) for name in ("word", "word_ladder", "a_1")] == ["Word", "WordLadder", "A1"]
