"""`sums`: worked by hand, families under commutation, and nothing a model writes breaks it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import envs
from envs.base import SPLITS, EnvUserError, Proposable, Rejection, Task, split_of
from envs.sums import Sums, family_text, guess_bound, guess_share, read_sum

PLAIN = Sums()
COMPACT = Sums(form="compact")

term_lists = st.lists(st.integers(-99, 99).filter(bool), min_size=2, max_size=4).map(lambda t: [abs(t[0]), *t[1:]])


def task_of(env: Sums, terms: list[int]) -> Task:
    return env._task("solve", "train", 0, -1, terms)


def test_by_hand() -> None:
    task = task_of(PLAIN, [47, 5, -12])
    assert task.prompt[0].text == "47 + 5 - 12 ="
    assert PLAIN.gold(task) == "52 - 12 = 40"
    assert task.difficulty == 23  # two digits, three terms
    assert (task.content, task.family) == ("+47 +5 -12", "-12 +5 +47")
    assert PLAIN.offer(task) == "47 + 5 - 12" and PLAIN.shape(task) == "+2 +1 -2"
    compact = task_of(COMPACT, [47, 5, -12])
    assert compact.prompt[0].text == "47+5-12=" and COMPACT.gold(compact) == "52-12=40" and compact.key == task.key
    assert PLAIN.gold(task_of(PLAIN, [5, -12, 3])) == "-7 + 3 = -4"


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("40", "ok"),
        ("52 - 12 = 40", "ok"),
        ("The result is 40.", "ok"),
        ("40.0", "ok"),
        ("80/2", "ok"),
        ("<answer>40</answer> since 47 + 5 is 52", "ok"),
        ("40 or 41", "wrong"),
        ("-40", "wrong"),
        ("40.5", "unparsed"),
        ("forty", "unparsed"),
        ("", "unparsed"),
        ("9" * 100_000, "unparsed"),
        ("\u0664\u0660", "unparsed"),  # Arabic-Indic digits
    ],
)
def test_verdicts_by_hand(text: str, status: str) -> None:
    verdict = PLAIN.verify(task_of(PLAIN, [47, 5, -12]), text)
    assert (verdict.status, verdict.reward) == (status, float(status == "ok"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("= -7", -7),
        ("5-12=-7", -7),
        ("\N{MINUS SIGN}7", -7),
        ("5-7", 7),
        ("1,234", 1234),
        ("12, 34", 34),
        ("1,23", 23),
        ("so,40", 40),
        ("is...40", 40),
    ],
)
def test_which_integer_is_read(text: str, value: int) -> None:
    assert PLAIN.parse(task_of(PLAIN, [1, 2]), text) == value


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ([47, 5, -12], [5, 47, -12], True),
        ([47, 5, -12], [47, -12, 5], True),
        ([47, 5, -5], [9, 47, -9], True),  # what cancels is gone
        ([3, 3, -5], [3, -5], False),
        ([5, -3], [3, -5], False),
    ],
)
def test_families(one: list[int], two: list[int], same: bool) -> None:
    assert (family_text(one) == family_text(two)) == same


@given(term_lists, st.randoms(use_true_random=False))
def test_any_order_is_one_family_with_one_sum(terms: list[int], rng: Any) -> None:
    shuffled = list(terms)
    rng.shuffle(shuffled)
    assert family_text(shuffled) == family_text(terms)
    assert sum(int(term) for term in family_text(terms).split()) == sum(terms)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("47 + 5 - 12", [47, 5, -12]),
        ("47+5-12=", [47, 5, -12]),
        ("Here is one:\n 47 + 5 \N{MINUS SIGN} 12 =", [47, 5, -12]),
        ("47", [47]),
        ("-47 + 5", None),
        ("47 + 5 = 52", None),
        ("47 * 5", None),
        ("47 +", None),
        ("__import__('os')", None),
        ("1 + " + "9" * 19, None),
        ("1 + 1" * 2000, None),
    ],
)
def test_our_own_parser(text: str, terms: list[int] | None) -> None:
    assert read_sum(text) == terms


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "format"),
        ("47 + x", "format"),
        ("47", "bounds"),
        ("1 + 2 + 3 + 4 + 5", "bounds"),
        ("1000 + 2", "bounds"),
        ("47 + 0", "bounds"),
        ("47 + 5 - 5", "answer_in_prompt"),
        ("6 - 3", "answer_in_prompt"),
        ("3 - 6", "answer_in_prompt"),  # -3, whose digits stand there
    ],
)
def test_rejections_by_name(text: str, reason: str) -> None:
    found = PLAIN.admit("solve", text, (), 0)
    assert isinstance(found, Rejection) and found.reason == reason


def test_guessable_follows_the_limit() -> None:
    # Of 81 sums of two digits 1 to 9, nine give 10: a constant scores 1/9 at best.
    pattern = ((True, 1), (True, 1))
    assert guess_bound(pattern) == pytest.approx(1 / 9)
    assert 0.05 < guess_share(pattern) < 0.2
    found = Sums(guess_limit=0.05).admit("solve", "4 + 5", (), 0)
    assert isinstance(found, Rejection) and found.reason == "guessable"


@pytest.mark.parametrize("env", [PLAIN, COMPACT, Sums(terms=[2, 9], digits=[1, 9])], ids=["plain", "compact", "wide"])
def test_tasks(env: Sums) -> None:
    assert isinstance(env, Proposable)
    for split in SPLITS:
        for index in range(60):
            difficulty = env.spec.difficulties[index % len(env.spec.difficulties)]
            task = env.task(split, index, 3, difficulty=difficulty)
            terms = task.payload["terms"]
            assert task.difficulty == difficulty == 10 * max(len(str(abs(t))) for t in terms) + len(terms)
            assert split_of("sums", task.family) == split
            gold = env.gold(task)
            assert env.verify(task, gold).reward == 1.0 and env.verify(task, env.offer(task)).reward == 0.0
            assert len(gold) + 1 <= env.spec.max_new_tokens and len(env.offer(task)) + 1 <= env.spec.propose_tokens
            assert task == env.task(split, index, 3, difficulty=difficulty)
            found = env.admit("solve", env.offer(task), (), 0)
            assert (found.key == task.key) if isinstance(found, Task) else (found.reason == "held_out")
            assert isinstance(found, Task) == (split == "train")


def test_difficulties_follow_the_options() -> None:
    assert Sums(terms=(2, 3), digits=(1, 2)).spec.difficulties == (12, 13, 22, 23)


def test_known_tasks_never_move() -> None:
    """A change of these is a change of every run: raise spec.version then."""
    assert [PLAIN.task("test", i, 0).content for i in range(3)] == KNOWN


KNOWN = ["+7 -6", "+146 -514 -254", "+86 +23"]


@given(st.text(max_size=80) | st.text(alphabet="0123456789 +-=\n", max_size=40))
@settings(max_examples=150)
def test_verify_and_admit_are_total(text: str) -> None:
    task = PLAIN.task("train", 0, 0)
    verdict = PLAIN.verify(task, text)
    assert (verdict.reward == 1.0) == (PLAIN.parse(task, text) == task.payload["answer"])
    found = PLAIN.admit("solve", text, (), 0)
    if isinstance(found, Task):
        assert PLAIN.verify(found, PLAIN.gold(found)).reward == 1.0


@given(term_lists)
def test_what_is_written_is_read_back(terms: list[int]) -> None:
    for env in (PLAIN, COMPACT):
        assert read_sum(env._write(terms)) == terms


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"form": "plane"}, "did you mean plain?"),
        ({"terms": [1, 3]}, "sums: option terms must be two whole numbers from 2 to 9"),
        ({"digits": "12"}, "got '12'"),
        ({"digit": [1, 2]}, "sums: unknown option 'digit'; did you mean digits"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, Any], line: str) -> None:
    with pytest.raises(EnvUserError, match=re.escape(line)):
        envs.make("sums", **options)
