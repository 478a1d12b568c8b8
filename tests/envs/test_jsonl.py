"""`jsonl`: a person's file, its match rules, its splits, and one clear line for whatever is wrong in it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import envs
from envs.base import SPLITS, EnvUserError, Proposable, split_of
from envs.check import check
from envs.jsonl import Jsonl


def write(folder: Path, *lines: dict[str, Any] | str | bytes) -> str:
    path = folder / "tasks.jsonl"
    data = [
        line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode()
        for line in lines
    ]
    path.write_bytes(b"\n".join(data))
    return str(path)


def one(folder: Path, **line: Any) -> tuple[Jsonl, Any]:
    env = Jsonl(path=write(folder, {"prompt": "Question?", "split": "test", **line}))
    return env, env.task("test", 0, 0)


@pytest.mark.parametrize(
    ("line", "text", "status"),
    [
        ({"answer": "Paris"}, " Paris\n", "ok"),
        ({"answer": "New  York"}, "New York", "ok"),
        ({"answer": "Paris"}, "It is <answer>Paris</answer>", "ok"),
        ({"answer": "Paris"}, "paris", "wrong"),
        ({"answer": "Paris"}, "It is Paris", "wrong"),
        ({"answer": "Paris"}, " ", "unparsed"),
        ({"answer": 10, "match": "number"}, "10.0", "ok"),
        ({"answer": 2.5, "match": "number"}, "so 5/2", "ok"),
        ({"answer": "1,000", "match": "number"}, "1000 km", "ok"),
        ({"answer": 1e-7, "match": "number"}, "0.0000001", "ok"),
        ({"answer": 0.5, "match": "number"}, "it is .5", "ok"),
        ({"answer": "-.5", "match": "number"}, "it is -1/2", "ok"),
        ({"answer": -3, "match": "number"}, "= 3", "wrong"),
        ({"answer": 10, "match": "number"}, "10 or 11", "wrong"),
        ({"answer": 10, "match": "number"}, "ten", "unparsed"),
        ({"answer": "B", "match": "choice"}, "A good answer is (B).", "ok"),
        ({"answer": "B", "match": "choice"}, "Between A and B: A", "wrong"),
        ({"answer": "B", "match": "choice"}, "BAD", "unparsed"),
        ({"answer": "yes", "match": "choice", "choices": ["yes", "no"]}, "no... I mean yes", "ok"),
        ({"answer": "yes", "match": "choice", "choices": ["yes", "no"]}, "maybe", "unparsed"),
    ],
)
def test_match_rules_by_hand(tmp_path: Path, line: dict[str, Any], text: str, status: str) -> None:
    env, task = one(tmp_path, **line)
    assert env.verify(task, text).status == status
    assert env.verify(task, env.gold(task)).reward == 1.0
    assert not isinstance(env, Proposable)


def test_the_file_sets_a_default_rule(tmp_path: Path) -> None:
    path = write(tmp_path, {"prompt": "2 + 2", "answer": "4", "split": "test"})
    env = Jsonl(path=path, match="number")
    assert env.verify(env.task("test", 0, 0), "makes 4").status == "ok"


def test_splits_and_difficulties(tmp_path: Path) -> None:
    lines = [{"prompt": f"What is  {i}?", "answer": i, "difficulty": 1 + i % 3} for i in range(200)]
    env = Jsonl(path=write(tmp_path, *lines, "", lines[0]))  # a blank line, and a line again
    assert env.spec.difficulties == (1, 2, 3) and env.spec.splits == SPLITS
    assert sum(env.size(split) for split in SPLITS) == 200
    seen = set()
    for split in SPLITS:
        tasks = [env.task(split, i, 4) for i in range(env.size(split))]
        assert len({task.key for task in tasks}) == len(tasks)  # each once before any again
        assert env.task(split, env.size(split), 4).key == tasks[0].key
        assert all(split_of("jsonl", task.family) == split for task in tasks)
        assert env.task(split, 0, 4, difficulty=2).difficulty == 2
        seen |= {task.content for task in tasks}
    assert len(seen) == 200 and "What is 7?" in seen
    assert [env.task("train", i, 4).key for i in range(9)] != [env.task("train", i, 5).key for i in range(9)]


def test_the_version_is_that_of_the_file(tmp_path: Path) -> None:
    env, task = one(tmp_path, answer="a")
    other, changed = one(tmp_path, answer="b")
    assert env.spec.version != other.spec.version and task.key != changed.key


def test_a_split_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    env, _ = one(tmp_path, answer="a")
    assert env.spec.splits == ("test",)
    with pytest.raises(EnvUserError, match="jsonl: no split 'train'; it has test"):
        env.task("train", 0, 0)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{oops", "JSON is malformed"),
        (b'{"prompt": "\xff", "answer": 1}', "not UTF-8 text"),
        ("[1]", "Expected `object`, got `array`"),
        ("[" * 50_000, "Expected `object`"),
        ({"prompt": "q"}, "missing required field `answer`"),
        ({"prompt": "q", "answer": 1, "anwser": 1}, "unknown field `anwser`; a line is"),
        ({"prompt": "q", "answer": True}, "got `bool` - at `$.answer`"),
        ({"prompt": "", "answer": 1}, "at `$.prompt`"),
        ({"prompt": " \n", "answer": 1}, "the prompt is blank"),
        ({"prompt": "q", "answer": ""}, "answer '' is not one that match 'exact' can find"),
        ({"prompt": "q", "answer": "ten", "match": "number"}, "answer 'ten' is not one that match 'number' can find"),
        ({"prompt": "q", "answer": "9" * 300, "match": "number"}, "is not one that match 'number' can find"),
        ({"prompt": "q", "answer": "x 3", "match": "number"}, "is not one that match 'number' can find"),
        ({"prompt": "q", "answer": "C", "match": "choice", "choices": ["A", "B"]}, "answer 'C' is not one"),
        ({"prompt": "q", "answer": "A", "choices": ["A", "B"]}, "choices are given, but match is 'exact'"),
        ({"prompt": "q", "answer": "a", "match": "exakt"}, "Invalid enum value 'exakt' - at `$.match`"),
        ({"prompt": "q", "answer": "a", "split": "val"}, "Invalid enum value 'val' - at `$.split`"),
        ({"prompt": "q", "answer": "a", "difficulty": 0}, "at `$.difficulty`"),
        (
            {"prompt": "FIRST", "answer": "a", "split": "train"},
            "held-out tasks leaking into train: the prompt of line 1",
        ),
        ({"prompt": "first ", "answer": "b", "split": "test"}, "the prompt of line 1 again, with another answer"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: dict[str, Any] | str | bytes, complaint: str) -> None:
    path = write(tmp_path, {"prompt": "first", "answer": "a", "split": "test"}, "", line)
    with pytest.raises(EnvUserError, match=re.escape(complaint)) as raised:
        envs.make("jsonl", path=path)
    assert str(raised.value).startswith(f"jsonl: {path} line 3: ") and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "jsonl: option 'path' must be given"),
        ({"path": "nowhere.jsonl"}, "jsonl: cannot read nowhere.jsonl: No such file"),
        ({"path": 3}, "option path must be the name of a file, got 3"),
        ({"path": "x", "match": "numbr"}, "did you mean number?"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(EnvUserError, match=re.escape(complaint)):
        envs.make("jsonl", **options)


def test_an_empty_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EnvUserError, match="holds no line"):
        Jsonl(path=write(tmp_path, "", " "))


def test_it_conforms(tmp_path: Path) -> None:
    rules = [{"answer": "Paris"}, {"answer": 7, "match": "number"}, {"answer": "B", "match": "choice"}]
    path = write(tmp_path, *({"prompt": f"Question {i}?", **rules[i % 3]} for i in range(60)))
    report = check("jsonl", options={"path": path}, tasks=8)
    assert report.ok, "\n".join(report.lines())
    assert {c.name for c in report.checks if c.outcome == "skip"} == {
        "zero_sum",
        "views",
        "illegal",
        "admit",
        "parallel",
    }


@given(text=st.text(max_size=60), match=st.sampled_from([("exact", "a"), ("number", "1"), ("choice", "A")]))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_verify_is_total(tmp_path: Path, text: str, match: tuple[str, str]) -> None:
    env, task = one(tmp_path, answer=match[1], match=match[0])
    assert env.verify(task, text).status in ("ok", "wrong", "unparsed")
