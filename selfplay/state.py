"""What a run is at the end of a generation, besides its weights: what a checkpoint holds, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from selfplay import config
from selfplay.archive import TaskArchive
from selfplay.config import Run
from selfplay.opponents import Opponents, Saved
from selfplay.records import decode, encode


@dataclass
class State:
    """All that a generation saves but arrays (`joint.py` has them): what it takes to go on as if never stopped."""

    generation: int = 0
    step: int = 0
    """Learner steps done."""
    tokens: int = 0
    """Tokens sampled in training, every role, rejected and filtered ones included."""
    episodes: int = 0
    minutes: float = 0.0
    """Wall-clock time trained, over all processes of the run."""
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    objective: dict[str, float] = field(default_factory=dict)
    solve_rates: dict[str, float] = field(default_factory=dict)
    """Moving estimates of p by "env/difficulty", for objective.follow = train."""
    summary: dict[str, float] = field(default_factory=dict)
    """Scores of the last evaluation."""
    archive: TaskArchive = field(default_factory=lambda: TaskArchive(1))
    opponents: Opponents = field(default_factory=lambda: Opponents(config.Opponents()))

    averages: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Sums of the average policy of every game that is small enough, as `Arena.state` gives them."""

    def record(self) -> dict[str, Any]:
        """Counters, baselines, objective and scores, as JSON holds them (no NaN)."""
        summary = {name: v if np.isfinite(v) else None for name, v in self.summary.items()}
        return {**{name: getattr(self, name) for name in COUNTERS}, "summary": summary}

    def blobs(self) -> dict[str, bytes]:
        """What is neither."""
        return {
            "archive": self.archive.to_bytes(),
            "opponents": encode(self.opponents.state()),
            "averages": encode(self.averages),
        }

    @classmethod
    def restored(cls, record: Mapping[str, Any], blobs: Mapping[str, bytes], *, run: Run) -> State:
        """The inverse of the two above, with bounds as they are configured now."""
        opponents, kept = Opponents(run.opponents), run.archive
        if "opponents" in blobs:  # a generation of before there were games has none
            opponents.restore(decode(blobs["opponents"], Saved))
        return cls(
            opponents=opponents,
            averages=decode(blobs["averages"], dict[str, dict[str, Any]]) if "averages" in blobs else {},
            summary={name: float("nan") if v is None else v for name, v in record["summary"].items()},
            archive=TaskArchive.from_bytes(blobs["archive"], capacity=kept.capacity, retire=kept.retire),
            **{name: record[name] for name in COUNTERS},
        )


COUNTERS = ("generation", "step", "tokens", "episodes", "minutes", "baselines", "objective", "solve_rates")
"""Fields that are saved as they are."""
