"""A worker for the cluster tests: its groups depend on the unit and on the weights, as a sampler's would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from envs.base import Rejection, Verdict
from selfplay.cluster.base import Params, Timings
from selfplay.records import Group, PolicyRef, SamplingSpec, Trajectory, Unit

ENTRY = "toy_worker:make"


class Toy:
    """Does what `unit.options["do"]` says, then answers with the sum of its weights."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.spec = spec
        self.params: dict[PolicyRef, Params] = {}

    def load(self, ref: PolicyRef, params: Params) -> None:
        self.params[ref] = params

    def drop(self, ref: PolicyRef) -> None:
        del self.params[ref]

    def run(self, unit: Unit) -> tuple[list[Group], Timings]:
        match unit.options.get("do", ""):
            case "sleep":
                time.sleep(unit.options["s"])
            case "raise":
                raise ArithmeticError(f"unit {unit.index}\ncannot be done")
            case "die":
                print("about to die", file=sys.stderr, flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
            case "child":
                child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
                with open(unit.options["file"], "w") as f:
                    f.write(f"{os.getpid()} {child.pid}")
                time.sleep(60)
            case "junk":
                os.write(int(sys.argv[1]), b"\x00\x00\x00\x03abc")
                time.sleep(60)
        ref = unit.seats["solve"]
        weights = np.asarray(self.params[ref]["layer"]["w"], np.float32)
        return [self._group(unit, row, float(weights.sum())) for row in range(unit.rows)], {"toy_s": 0.5}

    def _group(self, unit: Unit, row: int, total: float) -> Group:
        logprobs = np.asarray([total, unit.index, row], np.float32)
        proposal = Trajectory(
            role="propose", policy=unit.seats["solve"], ids=np.arange(3, dtype=np.int32), mask=np.ones(3, bool),
            behaviour_logprobs=logprobs, turn_starts=(0,), finish=("eos",), verdict=Verdict(0.0, "unparsed"),
            text=f"{self.spec['greeting']} {sorted(unit.options)} threads {os.environ.get('NPROC', 'none')}"
            if unit.options.get("do") == "environment"
            else self.spec["greeting"],
        )  # fmt: skip
        return Group(
            generation=unit.generation, step=unit.step, unit=unit.index, row=row, kind=unit.kind, env=unit.env,
            mode=unit.mode, split=unit.split, rejection=Rejection("format"), proposal=proposal, seats=unit.seats,
        )  # fmt: skip


def make(spec: Mapping[str, Any]) -> Toy:
    """The worker entry."""
    return Toy(spec)


def broken(spec: Mapping[str, Any]) -> Toy:
    """A worker entry that cannot build."""
    raise LookupError(f"no model {spec['greeting']}")


def unit(index: int, *, version: int = 0, **options: Any) -> Unit:
    """A unit of two rows."""
    return Unit(
        seed=1, generation=0, step=7, index=index, kind="propose", env="toy", options=options, mode="solve", rows=2,
        seats={"solve": PolicyRef("main", version)}, sampling={"solve": SamplingSpec(max_new_tokens=3)},
    )  # fmt: skip


def weights(value: float) -> Params:
    """A tiny set of weights."""
    return {"layer": {"w": np.full((4, 3), value, np.float32), "b": np.zeros((), np.int32)}}
