"""What a run measures and how a person sees it: metrics.jsonl, TensorBoard, transcripts, alarms, live display."""

from __future__ import annotations

from selfplay.metrics.alarms import ALARMS, demanded, difficulty_at_half, generation_alarms, step_alarms
from selfplay.metrics.display import Display
from selfplay.metrics.files import Sample, TaskLine, cut, read_metrics, read_tasks
from selfplay.metrics.names import METRICS
from selfplay.metrics.writer import RunWriter

__all__ = [
    "ALARMS",
    "METRICS",
    "Display",
    "RunWriter",
    "Sample",
    "TaskLine",
    "cut",
    "demanded",
    "difficulty_at_half",
    "generation_alarms",
    "read_metrics",
    "read_tasks",
    "step_alarms",
]
