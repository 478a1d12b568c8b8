"""What a run is at the end of a generation, besides its weights: what a checkpoint holds, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from selfplay import config
from selfplay.archive import TaskArchive
from selfplay.config import Run
from selfplay.memory import Memory
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
    roll_backs: int = 0
    """Times that an alarm took the run back; draws differ by it."""
    rolled_to: int = -1
    """Generation that the last of them went back to."""
    stopped: str = ""
    """Why an alarm ended the run; empty = none did."""
    archive: TaskArchive = field(default_factory=lambda: TaskArchive(1))
    memory: Memory = field(default_factory=Memory)
    opponents: Opponents = field(default_factory=lambda: Opponents(config.Opponents()))
    averages: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Sums of the average policy of every game that is small enough, as `Arena.state` gives them."""

    def note_roll_back(self, left: State, target: int, *, minutes: float) -> None:
        """This is the state of generation `target` again, after `left`: what that one has spent stays spent."""
        self.tokens, self.episodes, self.minutes = left.tokens, left.episodes, minutes
        self.roll_backs, self.rolled_to = left.roll_backs + 1, target

    def record(self) -> dict[str, Any]:
        """Counters, baselines, objective and scores, as JSON holds them (no NaN)."""
        summary = {name: v if np.isfinite(v) else None for name, v in self.summary.items()}
        return {**{name: getattr(self, name) for name in COUNTERS}, "summary": summary}

    def blobs(self) -> dict[str, bytes]:
        """What is neither."""
        return {
            "archive": self.archive.to_bytes(),
            "memory": self.memory.to_bytes(),
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
            memory=Memory.from_bytes(blobs["memory"]) if "memory" in blobs else Memory(),
            **{name: record[name] for name in COUNTERS if name in record},
        )


COUNTERS = (
    "generation", "step", "tokens", "episodes", "minutes", "baselines", "objective", "solve_rates", "roll_backs",
    "rolled_to", "stopped",
)  # fmt: skip
"""Fields that are saved as they are; generations of before a field was there lack it."""
