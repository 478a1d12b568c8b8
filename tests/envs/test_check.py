"""The conformance kit: ours pass, and each broken promise is caught by the check that is meant for it."""

from __future__ import annotations

import sys
from pathlib import Path

import broken_envs
import broken_games
import msgspec
import pytest

import envs.check
from envs.base import Env, EnvUserError
from envs.check import CHECKS, HUGE, JUNK, check
from envs.template.my_env import MyEnv

TASKS = 12


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("chain", {}),
        ("chain", {"form": "words"}),
        ("chain", {"form": "words", "modulus": 10, "digits": [2, 8]}),
        ("sums", {}),
        ("sums", {"form": "compact"}),
    ],
)
def test_ours_keep_every_promise(name: str, options: dict[str, object]) -> None:
    report = check(name, options=options, tasks=TASKS, limit_ms=500)
    assert report.ok, "\n".join(report.lines())
    assert [c.name for c in report.checks] == list(CHECKS)
    assert [c.name for c in report.checks if c.outcome == "skip"] == ["zero_sum", "views", "illegal", "parallel"]
    assert set(report.p95_ms) == {"task", "verify", "admit"}


def test_lines_are_one_a_check() -> None:
    lines = check(MyEnv(), tasks=3).lines()
    assert len(lines) == len(CHECKS) + 1 and lines[-1] == "my_env: all checks pass"
    assert lines[0].startswith("pass  spec") and not any("\n" in line for line in lines)


@pytest.mark.parametrize(
    ("env", "caught", "told"),
    [
        (broken_envs.DescendingDifficulties, "spec", "difficulties must ascend, got (4, 3)"),
        (broken_envs.AnotherIndex, "tasks", "expected ('my_env', '1', 'train', 1, 'solve')"),
        (broken_envs.TuplePayload, "tasks", "payload must be plain data"),
        (broken_envs.GlobalChance, "deterministic", "train task 0 differs when asked for again"),
        (broken_envs.HashOrder, "deterministic", "keys differ in a fresh process"),
        (broken_envs.LeakingSplits, "splits", "is in train and in dev"),
        (broken_envs.WrongGold, "gold", "status='wrong'"),
        (broken_envs.GoldNotParsed, "gold", "is not parsed"),
        (broken_envs.GenerousToEmpty, "junk", "'' scores full"),
        (broken_envs.ChokesOnSurrogates, "junk", "raises UnicodeEncodeError on '\\ud800 \\udfff'"),
        (broken_envs.RewardOutOfRange, "rewards", "reward -1.0 outside 0 to 1"),
        (broken_envs.NotANumber, "rewards", "reward nan outside 0 to 1"),
        (broken_envs.ImpureVerify, "rewards", "verify is not pure"),
        (broken_envs.EndlessEpisode, "episodes", "goes on after 10000 turns"),
        (broken_envs.TakesHeldOut, "admit", "must be turned down as held_out"),
        (broken_envs.RefusesItsOwn, "admit", "turns down its own sample"),
        (broken_envs.AdmitsAnother, "admit", "gives another key"),
        (broken_envs.ForgetsParents, "admit", "parents must be the keys of the shown tasks"),
        (broken_envs.UnnamedReason, "admit", "reason 'because' is not one of format, bounds"),
        (broken_envs.AdmitRaises, "admit", "raises KeyError on"),
        (broken_envs.NotForThreads, "parallel", "among others"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_broken_promise_is_caught(env: type[Env], caught: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if caught not in ("deterministic", "splits"):  # only these compare processes
        monkeypatch.setattr(
            envs.check, "keys_in_fresh_process", lambda target, options, seed, places: ["?"] * len(places)
        )
    report = check(env(), tasks=TASKS, limit_ms=500)
    assert caught in report.failed and not report.ok
    detail = next(c.detail for c in report.checks if c.name == caught)
    assert told in detail and "\n" not in detail
    assert f"fail  {caught}" in "\n".join(report.lines()) and report.lines()[-1].startswith("my_env: failed: ")


def test_slow_verification_of_huge_texts_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envs.check, "HUGE_LIMIT_S", 0.015)  # it sleeps 0.02 s on 100,000 characters
    report = check(broken_envs.SlowOnHuge(), tasks=1)
    assert report.failed == ("junk",)


def test_a_slow_environment_is_caught() -> None:
    report = check(broken_envs.SlowTask(), tasks=2, limit_ms=25)
    assert report.failed == ("time",) and report.p95_ms["task"] > 25


def test_an_environment_says_how_slow_it_may_be() -> None:
    env = MyEnv()
    env.spec = msgspec.structs.replace(env.spec, p95_ms=0.0)
    report = check(env, tasks=2)
    assert report.failed == ("time",) and "limit 0 ms" in report.checks[-1].detail


def test_a_class_that_a_fresh_process_cannot_make_is_told() -> None:
    report = check(broken_envs.NoDefaultConstructor(3), tasks=2)
    assert report.failed == ("deterministic",)
    detail = next(c.detail for c in report.checks if c.name == "deterministic")
    assert "a fresh process fails" in detail and "option 'width' must be given" in detail
    assert check(broken_envs.NoDefaultConstructor(3), options={"width": 3}, tasks=2).ok


def test_games() -> None:
    report = check(broken_envs.Nim(), tasks=TASKS)
    assert report.ok, "\n".join(report.lines())
    skipped = {c.name for c in report.checks if c.outcome == "skip"}
    assert skipped == {"splits", "gold", "junk", "rewards", "views", "illegal", "admit", "parallel"}
    generous = check(broken_envs.GenerousNim(), tasks=TASKS)
    assert generous.failed == ("zero_sum",)


@pytest.mark.parametrize("name", ["kuhn", "leduc", "tictactoe", "nim"])
@pytest.mark.parametrize("options", [{}, {"form": "words", "retries": 2, "forfeit": [-1.5, 0.5]}], ids=["", "words"])
def test_our_games_keep_every_promise(name: str, options: dict[str, object]) -> None:
    report = check(name, options=options, tasks=TASKS, limit_ms=500)
    assert report.ok, "\n".join(report.lines())
    skipped = {c.name for c in report.checks if c.outcome == "skip"}
    assert skipped == {"splits", "gold", "junk", "rewards", "admit", "parallel"}


@pytest.mark.parametrize(
    ("env", "caught", "told"),
    [
        (broken_games.OwnChance, "deterministic", "keys differ in a fresh process"),
        (broken_games.TellsAgain, "views", "is the view of no state"),
        (broken_games.Forgets, "views", "does not only grow"),
        (broken_games.ShowsTheOtherCard, "views", "has two views or sets of moves"),
        (broken_games.HidesTheCard, "views", "is shown the same in the information states"),
        (broken_games.LegalTwice, "views", "moves must be distinct texts"),
        (broken_games.OddChance, "views", "probabilities of chance sum to 0.9"),
        (broken_games.PaysTwice, "views", "the episode ends with"),
        (broken_games.Lenient, "illegal", "expected (-3.0, 'illegal')"),
        (broken_games.ChokesOnJunk, "illegal", "raises IndexError on"),
        (broken_games.WrongForfeit, "illegal", "gets (-1.0, 'illegal') when"),
        (broken_games.NoSecondTry, "illegal", "2 retries are left, but seat"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_broken_game_is_caught(env: type[Env], caught: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if caught != "deterministic":
        monkeypatch.setattr(
            envs.check, "keys_in_fresh_process", lambda target, options, seed, places: ["?"] * len(places)
        )
    report = check(env(), tasks=TASKS, limit_ms=500)
    detail = next(c.detail for c in report.checks if c.name == caught)
    assert caught in report.failed and told in detail, detail


def test_a_scratch_file_that_needs_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scratch_three.py").write_text(
        "from envs.template.my_env import MyEnv\n"
        "class Mine(MyEnv):\n"
        "    def __init__(self, *, width: int) -> None:\n"
        "        self.width = width\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert check("scratch_three:Mine", options={"width": 2}, tasks=3).ok


def test_an_unknown_name_is_the_users_error() -> None:
    with pytest.raises(EnvUserError, match="did you mean chain"):
        check("chian")


def test_the_junk_is_what_it_says() -> None:
    assert "" in JUNK and any("\0" in text for text in JUNK) and any("\ud800" in text for text in JUNK)
    assert any("\u202e" in text for text in JUNK) and all(len(text) == 100_000 for text in HUGE)
