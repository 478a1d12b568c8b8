"""The conformance kit on `my_env`, and one case worked by hand."""

from __future__ import annotations

from envs.base import Rejection, Task
from envs.check import check
from envs.template.my_env import MyEnv


def test_conformance() -> None:
    report = check(MyEnv())
    assert report.ok, "\n".join(report.lines())


def test_by_hand() -> None:
    env = MyEnv()
    task = env.build("stone", "train", seed=0, index=0)
    assert task.prompt[0].text == "Write stone backwards."
    assert env.verify(task, "enots").status == "ok"
    assert env.verify(task, "I think: <answer>enots</answer>").reward == 1.0
    assert env.verify(task, "stone").status == "wrong"
    assert env.verify(task, "").status == "unparsed"


def test_a_held_out_word_is_no_proposal() -> None:
    env = MyEnv()
    held_out, own = env.task("test", 0, 0), env.task("train", 0, 0)
    refused = env.admit("solve", held_out.content, (), 0)
    assert isinstance(refused, Rejection) and refused.reason == "held_out"
    admitted = env.admit("solve", own.content, (), 0)
    assert isinstance(admitted, Task) and admitted.key == own.key
