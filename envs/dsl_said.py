"""A proposal that cannot be run, as a task all the same: there is no truth, so no answer to it is right."""

from __future__ import annotations

from envs.base import Message, Task

ENDS = {"deduce": "=", "abduce": "@", "induce": "?"}
"""What follows a problem in compact form, by mode."""


def said_task(mode: str, said: str, version: str, seed: int, parents: tuple[str, ...]) -> Task:
    """The task to solve what a proposer said, whatever that is; `said` in its payload marks it."""
    return Task(
        env="dsl",
        env_version=version,
        split="train",
        seed=seed,
        index=-1,
        mode=mode,
        difficulty=0,
        prompt=(Message("user", said + ENDS[mode]),),
        payload={"said": said},
        content=f"said | {said}",
        family=f"said | {said}",
        origin="proposed",
        parents=parents,
    )
