"""Remember what went wrong with the right answer, to be shown with like tasks: learning without a gradient.

Source: external memory of corrected thoughts, after MoT, arXiv:2305.05181, and TRAN, arXiv:2310.15746.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from envs.base import Env, Verifiable
from selfplay.config import Run
from selfplay.memory import Memory
from selfplay.prompts import first_messages
from selfplay.records import Group, Lesson
from selfplay.refiners.base import Refiner


def remember(run: Run, envs: Mapping[str, Env], memory: Memory, groups: Sequence[Group]) -> Memory:
    """The memory with a lesson for every task that had judged attempts and none right."""
    new = []
    for group in groups:
        env, task = envs[group.env], group.task
        if task is None or not group.valid or group.solve_rate > 0 or not isinstance(env, Verifiable):
            continue
        gold = env.gold(task)
        if gold is not None:
            question = first_messages(env, task)
            place = {"env": task.env, "mode": task.mode, "shape": group.shape, "family": task.family}
            new.append(Lesson(**place, question=question, answer=gold))
    return memory.with_lessons(new, capacity=run.refine.capacity)


LESSONS = Refiner(remember=remember, gold=True)
