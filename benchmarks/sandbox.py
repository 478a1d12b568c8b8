"""`python -m benchmarks sandbox [--runs 400] [--workers 2] [--tier all] [--repeats 5]`: verified runs of the sandbox.

As many client threads as workers, on as many cores; each run has a question of its own, and its value is compared with
the expected one as `Sandbox.grade` does it. Tiers are measured by turns, so that they meet the same neighbours. No jax.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import get_args

import numpy as np

from benchmarks.family import processor_s
from benchmarks.figures import spreads
from benchmarks.parser import Parser
from envs.sandbox import Result, Sandbox, SandboxRefused, canonical_literal
from envs.sandbox.worker import TIERS, Tier
from selfplay.errors import SelfplayError, UserError

PROGRAM = """
def f(words):
    counts = {}
    for word in words:
        counts[word] = counts.get(word, 0) + 1
    return counts
"""
TIMEOUT_S = 30.0
"""A busy machine is no failure."""


def main(argv: Sequence[str]) -> None:
    """The command `sandbox`; see the top of this file."""
    parser = Parser("python -m benchmarks sandbox", description=__doc__)
    parser.add_argument("--tier", default="all", choices=("all", *get_args(Tier)), help="all: A, B and C by turns")
    for option, default in {"runs": 400, "workers": 2, "repeats": 5}.items():
        parser.add_argument(f"--{option}", type=int, default=default)
    args = parser.parse_args(argv)
    for option in ("runs", "workers", "repeats"):
        if getattr(args, option) < 1:
            raise UserError(f"--{option} must be >= 1, got {getattr(args, option)}")
    print(json.dumps({"benchmark": "sandbox"} | run(args.tier, args.runs, args.workers, args.repeats)))


def run(tier: str, runs: int, workers: int, repeats: int) -> dict[str, object]:
    """The figures of every tier that holds here, strongest first."""
    usable = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, usable[:workers])  # workers are started from here, and keep to the same cores
    start = os.getloadavg()[0]
    try:
        with ExitStack() as stack:
            boxes, refused = _open(TIERS[:3] if tier == "all" else (tier,), workers, stack)
            rows: dict[str, list[dict[str, float]]] = {name: [] for name in boxes}
            for _ in range(repeats):
                for name, box in boxes.items():
                    rows[name].append(measure(box, runs, workers))
    finally:
        os.sched_setaffinity(0, usable)
    return {
        "runs": runs,
        "workers": workers,
        "repeats": repeats,
        "cores": min(workers, len(usable)),
        "load_average": {"start": round(start, 2), "end": round(os.getloadavg()[0], 2)},
        "strongest": next(iter(boxes)),
        "tiers": {name: spreads(passes) for name, passes in rows.items()},
        "refused": refused,
    }


def _open(tiers: Sequence[str], workers: int, stack: ExitStack) -> tuple[dict[str, Sandbox], dict[str, str]]:
    """A sandbox for each tier that holds, all of its workers up; and why the others do not."""
    boxes, refused = {}, {}
    for tier in tiers:
        try:
            boxes[tier] = stack.enter_context(Sandbox(workers, tier=tier))  # type: ignore[arg-type]
        except SandboxRefused as error:
            refused[tier] = str(error)
    if not boxes:
        raise UserError("; ".join(refused.values()))
    for box in boxes.values():
        box.deterministic("", "1", timeout_s=TIMEOUT_S)  # asks every worker, so it waits for the last one
    return boxes, refused


def measure(box: Sandbox, runs: int, clients: int) -> dict[str, float]:
    """One pass: speed, and milliseconds of a run, the caller's view and the program's own, at the median and p95."""
    with ThreadPoolExecutor(clients) as threads:
        processor, began = processor_s(), time.perf_counter()
        seen = list(threads.map(partial(_verified, box), range(runs)))
        spent = time.perf_counter() - began
        processor = processor_s() - processor
    calls_ms = np.array([1e3 * spent_s for spent_s, _ in seen])
    own_ms = np.array([1e3 * result.wall_s for _, result in seen])
    found = {"runs_per_s": runs / spent, "processor_ms_per_run": 1e3 * processor / runs}
    for name, values in {"call": calls_ms, "own": own_ms, "above": calls_ms - own_ms}.items():
        found |= {f"{name}_{at}_ms": float(np.quantile(values, q)) for at, q in (("p50", 0.5), ("p95", 0.95))}
    return found


def _verified(box: Sandbox, number: int) -> tuple[float, Result]:
    """Seconds that one verified run took its caller, and what came of it; anything but the right value is an error."""
    began = time.perf_counter()
    wanted = canonical_literal(f"{{'a': 2, 'b': 1, 'w{number}': 1}}")
    result = box.run(PROGRAM, f"f(['a', 'b', 'a', 'w{number}'])", timeout_s=TIMEOUT_S)
    right = result.status == "ok" and result.text == wanted
    spent = time.perf_counter() - began
    if not right:
        raise SelfplayError(f"sandbox tier {box.tier}: a run gave {result.status}: {result.text}; expected {wanted}")
    return spent, result
