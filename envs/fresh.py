"""The same tasks in a fresh process: what shows that nothing random leaks in from the interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import envs
from envs.base import Env, EnvUserError, Split, Task
from envs.check_games import trace

Place = tuple[Split, int, str, int | None]
"""split, index, mode, difficulty."""

TIMEOUT_S = 120


def keys_in_fresh_process(target: str, options: dict[str, Any], seed: int, places: list[Place]) -> list[str] | str:
    """The identities of the tasks at some places, from an interpreter with another hash seed.

    Args:
      target: a name as in `envs.make`.
      options: what the environment is made with.

    Returns:
      One `identity` a place; or, where the process failed, its last line as a text.
    """
    order = {"target": target, "options": options, "seed": seed, "places": places}
    path = [os.getcwd(), str(Path(__file__).resolve().parents[1]), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", "from envs.fresh import print_keys; print_keys()"],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONHASHSEED": "12345"},
    )
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    keys: list[str] = json.loads(done.stdout.splitlines()[-1])
    return keys


def print_keys() -> None:
    """In the fresh process: read from standard input which tasks to draw, print their identities as JSON."""
    order = json.load(sys.stdin)
    try:
        env = envs.make(order["target"], **order["options"])
    except EnvUserError as error:
        sys.exit(str(error))
    tasks = [
        env.task(split, index, order["seed"], mode=mode, difficulty=d) for split, index, mode, d in order["places"]
    ]
    print(json.dumps([identity(env, task) for task in tasks]))


def identity(env: Env, task: Task) -> str:
    """What must be the same in every process: the key; of several seats also how the same deal is played."""
    return task.key if env.spec.seats == 1 else f"{task.key} {trace(env, task)}"
