"""The worker inside the learner's process: no copies of weights, no waiting, the same bits."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence

from selfplay.cluster.base import Params, Result, Worker, check_refs
from selfplay.heap import trim
from selfplay.records import Group, PolicyRef, Unit, decode, encode


class InProcess:
    """A cluster of one worker that shares the learner's devices.

    Published arrays are handed over as they are: see the lease rule of `Cluster`. Units and groups go through the
    wire format all the same (about a millisecond a unit), so that a worker sees exactly what an actor process would.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._published: set[PolicyRef] = set()

    def publish(self, policy: str, version: int, params: Params) -> None:
        ref = PolicyRef(policy, version)
        if ref in self._published:
            raise ValueError(f"{policy}@{version} is published already")
        self._worker.load(ref, params)
        self._published.add(ref)

    def retire(self, policy: str, keep_versions: Collection[int]) -> None:
        gone = [ref for ref in self._published if ref.policy == policy and ref.version not in keep_versions]
        for ref in sorted(gone, key=lambda r: r.version):
            self._worker.drop(ref)
            self._published.remove(ref)
        if gone:
            trim()  # an update may come next, and weights, moments and gradients share this process

    def run(self, units: Sequence[Unit]) -> Iterator[Result]:
        check_refs(units, self._published)
        return self._run(units)

    def _run(self, units: Sequence[Unit]) -> Iterator[Result]:
        for unit in units:
            start = time.perf_counter()
            groups, timings = self._worker.run(decode(encode(unit), Unit))
            run_s = time.perf_counter() - start
            yield unit, decode(encode(groups), list[Group]), {**timings, "run_s": run_s, "total_s": run_s}

    def close(self) -> None:
        for ref in sorted(self._published, key=lambda r: (r.policy, r.version)):
            self._worker.drop(ref)
        self._published.clear()
