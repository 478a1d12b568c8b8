"""Where units run: in the learner's process, or in actor processes. One small protocol, `base.Cluster`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfplay.cluster.base import Cluster, Worker, build_worker
from selfplay.cluster.inprocess import InProcess
from selfplay.cluster.local import LocalCluster

__all__ = ["Cluster", "InProcess", "LocalCluster", "Worker", "build_worker", "open_cluster"]


def open_cluster(
    actors: int,
    entry: str,
    spec: Mapping[str, Any],
    *,
    threads: int,
    timeout_s: float,
    platform: str = "cpu",
    log_folder: Path | None = None,
) -> Cluster:
    """The cluster of K actors: in the learner's process for K = 0, in processes of their own otherwise.

    Args: see `LocalCluster`; all but `entry` and `spec` are for actor processes only.
    """
    if actors == 0:
        return InProcess(build_worker(entry, spec))
    return LocalCluster(
        actors, entry, spec, threads=threads, timeout_s=timeout_s, platform=platform, log_folder=log_folder
    )
