"""Names of environments: ours, other people's, scratch files, and wrong ones."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import envs
from envs.base import Env, EnvUserError, Game, Proposable, UnknownEnv, Verifiable
from envs.chain import Chain


def test_every_builtin_is_made_and_says_its_name(tmp_path: Path) -> None:
    file = tmp_path / "one.jsonl"
    file.write_text('{"prompt": "q", "answer": "a", "split": "train"}\n')
    needed = {"jsonl": {"path": str(file)}, "openspiel": {"game": "kuhn_poker"}}
    for name in envs.BUILTIN:
        env = envs.make(name, **needed.get(name, {}))
        assert env.spec.name == name and env.spec.summary
        game = env.spec.seats > 1
        assert isinstance(env, Game) == game and isinstance(env, Verifiable) == (not game)
        assert isinstance(env, Proposable) == (not game and name != "jsonl")


def test_every_builtin_is_described_without_options() -> None:
    assert envs.describe("jsonl") == "a person's own file of questions, one JSON object a line."
    assert all(envs.describe(name) and "\n" not in envs.describe(name) for name in envs.BUILTIN)
    with pytest.raises(UnknownEnv, match="did you mean chain"):
        envs.describe("chian")


def test_options_reach_the_environment() -> None:
    env = envs.make("chain", form="words", digits=[2, 3])
    assert isinstance(env, Chain) and env.digits == (2, 3) and env.modulus == 100


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("chian", "unknown environment 'chian'; did you mean chain?"),
        ("zzz", "unknown environment 'zzz'; valid: chain, dsl, jsonl, kuhn, "),
        ("", "unknown environment ''"),
        ("..:Thing", "a scratch file is named module:Class"),
        ("a\0b:Thing", "a scratch file is named module:Class"),
        (":", "a scratch file is named module:Class"),
        ("nowhere:Thing", "cannot import nowhere: ModuleNotFoundError"),
        ("envs.chain:Chian", "envs.chain has no class Chian; did you mean Chain?"),
        ("envs.base:SPLITS", "envs.base has no class SPLITS"),
        ("collections:Counter", "collections:Counter is no environment"),
        ("envs.base:Task", "envs.base:Task: option 'env' must be given"),
    ],
)
def test_a_wrong_name_is_one_line(name: str, line: str) -> None:
    with pytest.raises(EnvUserError, match=re.escape(line)) as raised:
        envs.make(name)
    assert "\n" not in str(raised.value)


SCRATCH = """
from envs.template.my_env import MyEnv

class Mine(MyEnv):
    def __init__(self, *, least: int = 3):
        if least < 3:
            raise ValueError(f"least must be 3 or more, got {least}")
"""


def test_a_scratch_file_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scratch_one.py").write_text(SCRATCH)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    env = envs.make("scratch_one:Mine", least=4)
    assert isinstance(env, Env) and env.task("train", 0, 0) == env.task("train", 0, 0)
    with pytest.raises(EnvUserError, match=r"scratch_one:Mine: least must be 3 or more, got 2"):
        envs.make("scratch_one:Mine", least=2)
    with pytest.raises(EnvUserError, match=r"unknown option 'last'; did you mean least\?"):
        envs.make("scratch_one:Mine", last=2)


def test_a_scratch_file_that_does_not_compile_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scratch_two.py").write_text("def (")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(UnknownEnv, match="cannot import scratch_two: SyntaxError") as raised:
        envs.make("scratch_two:Mine")
    assert "\n" not in str(raised.value)


def test_entry_points_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = [
        EntryPoint("theirs", "envs.template.my_env:MyEnv", envs.GROUP),
        EntryPoint("chain", "envs.template.my_env:MyEnv", envs.GROUP),  # a name of ours stays ours
    ]
    monkeypatch.setattr(envs, "entry_points", lambda group: theirs if group == envs.GROUP else [])
    assert envs.names() == (*envs.BUILTIN, "theirs")
    assert envs.make("theirs").spec.name == "my_env"
    assert isinstance(envs.make("chain"), Chain)
    with pytest.raises(UnknownEnv, match="did you mean theirs"):
        envs.make("their")


def test_environments_need_neither_jax_nor_the_trainer() -> None:
    code = (
        "import sys, envs, envs.check, envs.new\n"
        "for name in ('chain', 'sums'): envs.make(name).task('train', 0, 0)\n"
        "import envs.jsonl\n"
        "sys.exit(sorted({m.partition('.')[0] for m in sys.modules} & {'jax', 'flax', 'numpy', 'selfplay'}) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("kuhn", {"alhpa": 0.1}, "kuhn: unknown option 'alhpa'; did you mean alpha?"),
        (
            "nim",
            {"from": "words"},
            "nim: unknown option 'from'; did you mean form?",
        ),  # of all games
        ("tictactoe", {"piles": [3]}, "tictactoe: unknown option 'piles'"),
    ],
)
def test_an_unknown_option_of_a_game_is_one_line(name: str, options: dict[str, object], line: str) -> None:
    with pytest.raises(EnvUserError, match=re.escape(line)):
        envs.make(name, **options)
    assert envs.make(name, form="words", retries=2).spec.illegal
