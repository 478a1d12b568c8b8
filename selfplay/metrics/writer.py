"""The one place through which a run writes what it measured: line files, TensorBoard and log.txt."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import numpy as np

from selfplay.config import Alarms, Run
from selfplay.metrics.alarms import difficulty_at_half, first_means, generation_alarms, step_alarms
from selfplay.metrics.events import Events
from selfplay.metrics.files import (
    METRICS_FILE,
    SAMPLES_FILE,
    TASKS_FILE,
    LineFile,
    Sample,
    TaskLine,
    metric_line,
    read_metrics,
)
from selfplay.metrics.front_page import FRONT_PAGE, TITLE
from selfplay.metrics.names import check_names, has_twin
from selfplay.metrics.pictures import heat_map

MAX_TEXT = 4000
"""Characters of a prompt or completion that samples.jsonl keeps."""

_HEAD = ("kind", "step", "generation", "tokens")
_TEST = re.compile(r"^eval/test/([^/]+)/(-?\d+)/pass@1$")
_ASKED = re.compile(r"^propose/difficulty_share/([^/]+)/(-?\d+)$")

Grid = dict[str, dict[int, float]]
"""Environment -> difficulty -> value."""


class RunWriter:
    """Writes one run folder; opened again after a resume, it goes on as if never stopped.

    The learner restores a generation, calls `cut(folder, step)`, and opens a writer with
    `purge_step = step + 1`; anew in a used folder, `cut(folder, -1)` and `purge_step = 0`.
    A generation's records are written before its checkpoint commits, so that a restored
    generation always has them.
    """

    def __init__(self, folder: Path, *, purge_step: int | None = None, alarms: Alarms | None = None) -> None:
        """Open the files of a run.

        Args:
          folder: the run folder; made if it is not there.
          purge_step: first learner step that TensorBoard must forget; None in a fresh folder.
          alarms: when they ring; None = as they come.

        Raises:
          ValueError: metrics.jsonl holds that step already: it was not cut.
        """
        folder.mkdir(parents=True, exist_ok=True)
        steps = read_metrics(folder, "step")
        self._generations = read_metrics(folder, "generation")
        last = max((r["step"] for r in steps + self._generations), default=-1)
        if last >= (0 if purge_step is None else purge_step):
            raise ValueError(f"{folder / METRICS_FILE} goes on to step {last}: cut it before purge_step {purge_step}")
        self._alarms = alarms or Alarms()
        self._begun = [_values(r) for r in steps[: self._alarms.window]]
        self._recent = [_values(r) for r in steps[-self._alarms.window :]]
        self._asked: Counter[tuple[str, int]] = Counter()
        self._lines = LineFile(folder / METRICS_FILE)
        self._samples = LineFile(folder / SAMPLES_FILE)
        self._tasks = LineFile(folder / TASKS_FILE)
        self._log = (folder / "log.txt").open("a", encoding="utf-8", buffering=1)
        self._events = Events(folder, purge_step=purge_step)
        self._events.front_page(TITLE, FRONT_PAGE)
        if purge_step is not None:
            self._redraw_twins(steps, purge_step)

    def step(self, step: int, tokens: int, values: Mapping[str, float]) -> dict[str, float]:
        """Record a learner step.

        Args:
          step: learner steps done, counted over the whole run.
          tokens: tokens sampled so far, every role counted.
          values: metric -> number; NaN = no value this time.

        Returns:
          What was written: the values and the alarms.
        """
        given = {name: float(v) for name, v in values.items()}
        check_names(given)
        window = self._alarms.window
        self._begun = [*self._begun, given][:window]
        self._recent = [*self._recent, given][-window:]
        out = {**given, **step_alarms(self._recent, self._alarms, first_means(self._begun, self._alarms))}
        self._lines.append(metric_line("step", step, self._learning_towards, tokens, out))
        self._draw(step, tokens, out)
        return out

    def generation(self, generation: int, step: int, tokens: int, values: Mapping[str, float]) -> dict[str, float]:
        """Record a generation: all its eval/ and game/ keys, the same set every time, the base (0) included.

        A generation that was not evaluated gives none of them; they are then written as null.

        Returns:
          What was drawn: the values, what the proposer asked by difficulty, the alarms, and the base's test
          scores as `eval/base/...` (which metrics.jsonl holds once, in generation 0).
        """
        out = {**self._same_scores({name: float(v) for name, v in values.items()}), **self._curriculum(values)}
        out |= generation_alarms([*map(_values, self._generations), out], self._alarms)
        check_names(out)
        self._generations.append({**out, "generation": generation, "step": step, "tokens": tokens})
        self._lines.append(metric_line("generation", step, generation, tokens, out))
        out |= _base_lines(self._generations[0])
        self._draw(step, tokens, out)
        self._pictures(step)
        self._asked.clear()
        self.flush()
        return out

    def transcripts(self, step: int, panels: Mapping[str, str]) -> None:
        """Text panels of TensorBoard: name -> markdown."""
        for name, markdown in panels.items():
            self._events.text(step, f"transcripts/{name}", markdown)

    def pictures(self, step: int, drawn: Mapping[str, np.ndarray]) -> None:
        """Images of TensorBoard: name -> [H, W, 3] uint8."""
        for name, picture in drawn.items():
            self._events.image(step, name, picture)

    def samples(self, records: Sequence[Sample]) -> None:
        """Transcripts for samples.jsonl, long texts cut."""
        self._samples.append_all(
            [msgspec.structs.replace(r, prompt=r.prompt[:MAX_TEXT], text=r.text[:MAX_TEXT]) for r in records]
        )

    def tasks(self, lines: Sequence[TaskLine]) -> None:
        """A step's admitted tasks, for tasks.jsonl, in unit and row order."""
        self._tasks.append_all(list(lines))
        self._asked.update((t.task.env, t.task.difficulty) for t in lines if t.task.origin == "proposed")

    def hyperparameters(self, run: Run) -> None:
        """The hyperparameters panel: every field of the config beside the last test scores and solve rates."""
        metrics = [name for env in run.envs for name in (f"eval/test/{env}/pass@1", f"solve_rate/{env}")]
        self._events.hyperparameters(flatten(msgspec.to_builtins(run)), metrics)

    def log(self, line: str) -> None:
        """A dated line of log.txt."""
        self._log.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {line}\n")

    def flush(self) -> None:
        """Bring everything to the disk."""
        for file in (self._lines, self._samples, self._tasks):
            file.sync()
        self._events.flush()

    def close(self, *, finished: bool = True) -> None:
        """Close all files; `finished` marks the run as ended well in the hyperparameters panel."""
        if finished:
            self._events.finished()
        self.flush()
        for file in (self._lines, self._samples, self._tasks, self._log, self._events):
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.close(finished=kind is None)

    @property
    def _learning_towards(self) -> int:
        """The generation that the running steps will end in: one beyond the last recorded."""
        return int(self._generations[-1]["generation"]) + 1 if self._generations else 0

    def _draw(self, step: int, tokens: int, values: Mapping[str, float]) -> None:
        self._events.scalars(step, values)
        self._events.scalars(tokens, _twins(values))

    def _redraw_twins(self, steps: list[dict[str, Any]], purge_step: int) -> None:
        """Draw the kept `*_by_tokens` points again: their x is tokens, so the purge by step took them too."""
        for record in sorted(steps + self._generations, key=lambda r: int(r["tokens"])):
            if record["tokens"] >= purge_step:
                self._events.scalars(int(record["tokens"]), _twins(_values(record)))

    def _same_scores(self, values: dict[str, float]) -> dict[str, float]:
        """The values with every eval/ and game/ key of the generations before, null where none was measured."""
        scores = {name for name in values if name.startswith(("eval/", "game/"))}
        if not self._generations:
            return values
        expected = {name for name in self._generations[0] if name.startswith(("eval/", "game/"))}
        if not scores:
            return {**dict.fromkeys(expected, math.nan), **values}
        if scores != expected:
            raise ValueError(f"eval/ and game/ keys differ from generation 0: {sorted(scores ^ expected)}")
        return values

    def _curriculum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Where the solver stands and what the proposer asked since the last generation, by difficulty."""
        halves = [difficulty_at_half(row) for row in _grid(values, _TEST).values()]
        asked = sum(self._asked.values())
        by_env: Counter[str] = Counter()
        for (env, _), n in self._asked.items():
            by_env[env] += n
        shares = {f"propose/difficulty_share/{e}/{d}": n / by_env[e] for (e, d), n in sorted(self._asked.items())}
        mean = sum(d * n for (_, d), n in self._asked.items()) / asked if asked else math.nan
        return {
            "curriculum/solver_difficulty_at_half": float(np.mean(halves)) if halves else math.nan,
            "curriculum/proposed_difficulty_mean": mean,
            **shares,
        }

    def _pictures(self, step: int) -> None:
        """Difficulty x generation, an environment each: held-out accuracy, and what the proposer asks."""
        columns = [str(r["generation"]) for r in self._generations]
        for name, pattern in (("test_pass@1", _TEST), ("proposed_share", _ASKED)):
            grids = [_grid(_values(r), pattern) for r in self._generations]
            for env in sorted({e for grid in grids for e in grid}):
                rows = sorted({d for grid in grids for d in grid.get(env, {})}, reverse=True)
                # A share that was not written is 0 in a generation with proposals, and no value in one without.
                table = [[g[env].get(d, 0.0) if env in g else math.nan for g in grids] for d in rows]
                title = f"{env}: {name}, difficulty x generation"
                picture = heat_map(np.asarray(table), [str(d) for d in rows], columns, title=title)
                self._events.image(step, f"{name}/{env}", picture)


def _values(record: Mapping[str, Any]) -> dict[str, float]:
    """A record of metrics.jsonl without its head."""
    return {name: v for name, v in record.items() if name not in _HEAD}


def _twins(values: Mapping[str, float]) -> dict[str, float]:
    return {f"{name}_by_tokens": v for name, v in values.items() if has_twin(name)}


def _base_lines(base: Mapping[str, Any]) -> dict[str, float]:
    """Generation 0's test scores under the names that the front page draws as flat lines."""
    return {n.replace("eval/test/", "eval/base/", 1): v for n, v in base.items() if _TEST.match(n)}


def _grid(values: Mapping[str, float], pattern: re.Pattern[str]) -> Grid:
    grid: Grid = {}
    for name, v in values.items():
        if found := pattern.match(name):
            grid.setdefault(found[1], {})[int(found[2])] = v
    return grid


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """A nested configuration as dotted name -> plain value; lists become text, None becomes `none`."""
    flat: dict[str, bool | int | float | str] = {}
    for name, value in tree.items():
        match value:
            case Mapping():
                flat |= flatten(value, f"{prefix}{name}.")
            case bool() | int() | float() | str():
                flat[prefix + name] = value
            case None:
                flat[prefix + name] = "none"
            case _:
                flat[prefix + name] = ", ".join(map(str, value))
    return flat
