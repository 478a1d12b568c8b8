"""The live display: a rich table on a terminal, plain lines anywhere else."""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TextIO

import numpy as np

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

PLAIN_EVERY_S = 5.0
"""Least time between two plain lines of learner steps, in seconds."""

GAME = ("nash_conv", "nash_conv_average", "illegal_mass", "elo")
"""What is said of a game at a generation's end, where it was measured."""

_SCORE = re.compile(r"^eval/(test|base)/([^/]+)/(-?\d+)/pass@1$")

Scores = dict[tuple[str, int], float]
"""(environment, difficulty) -> test pass@1."""


class Display:
    """Shows a run while it goes: progress, rates, time left, and the last test scores beside the base's."""

    def __init__(
        self,
        name: str,
        *,
        generations: int,
        steps: int,
        done: int = 0,
        out: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the display.

        Args:
          name: the run's name.
          generations: generations planned.
          steps: learner steps planned in all.
          done: learner steps done before this process, when a run is resumed.
          out: where to write; None = standard output.
          clock: seconds, for the time left.
        """
        self._name, self._generations, self._steps, self._first = name, generations, steps, done
        self._out, self._clock = out if out is not None else sys.stdout, clock
        self._started, self._said = clock(), -math.inf
        self._step, self._generation, self._tokens = done, 0, 0
        self._values: dict[str, float] = {}
        self._base: Scores = {}
        self._scores: Scores = {}
        self._games: dict[str, float] = {}
        self._live: Live | None = self._open_live() if self._out.isatty() else None

    def step(self, step: int, tokens: int, values: Mapping[str, float]) -> None:
        """Show a learner step."""
        self._step, self._tokens = step, tokens
        self._values.update({name: v for name, v in values.items() if not math.isnan(v)})
        if self._live is not None:
            self._live.update(self._table())
        elif self._clock() - self._said >= PLAIN_EVERY_S:
            self._said = self._clock()
            self._say("  ".join(f"{label} {text}" for label, text in self.facts().items()))

    def generation(self, generation: int, step: int, tokens: int, values: Mapping[str, float]) -> None:
        """Show a generation: `values` are what `RunWriter.generation` returned, with the base's scores."""
        self._generation, self._step, self._tokens = generation, step, tokens
        scores = _scores(values, "test")
        if scores:
            self._scores, self._base = scores, _scores(values, "base")
        games = {name: v for name, v in values.items() if _of_game(name) and not math.isnan(v)}
        self._games = games or self._games
        if self._live is not None:
            self._live.update(self._table())
            return
        if scores:
            self._say(f"generation {generation} test pass@1 (base)  " + "  ".join(self.score_texts().values()))
        if games:
            self._say(f"generation {generation}  " + "  ".join(self.game_texts().values()))

    def note(self, line: str) -> None:
        """Say something in passing."""
        if self._live is not None:
            self._live.console.print(line, highlight=False, markup=False)
        else:
            self._say(line)

    def close(self) -> None:
        """Leave the last state on the screen."""
        if self._live is not None:
            self._live.stop()

    def facts(self) -> dict[str, str]:
        """Label -> text of the run's state, in the order shown; rates that were not measured are left out."""
        solve = [v for name, v in self._values.items() if name.startswith("solve_rate/")]
        alarms = [name.removeprefix("alarm/") for name, v in self._values.items() if name.startswith("alarm/") and v]
        rates = {
            "solve": f"{np.mean(solve):.2f}" if solve else "",
            "valid": self._rate("propose/valid_frac", ".2f"),
            "difficulty": self._rate("propose/difficulty_mean", ".2f"),
            "tokens": f"{self._tokens:,}",
            "tokens/s": self._rate("perf/tokens_per_s", ",.0f"),
            "left": self.time_left(),
            "alarms": ", ".join(alarms),
        }
        places = {"generation": f"{self._generation}/{self._generations}", "step": f"{self._step}/{self._steps}"}
        return places | {label: text for label, text in rates.items() if text}

    def time_left(self) -> str:
        """Minutes and seconds to the end, at this process's mean pace (evaluation included); empty at first."""
        done = self._step - self._first
        if done <= 0:
            return ""
        seconds = round((self._clock() - self._started) / done * max(self._steps - self._step, 0))
        hours, seconds = divmod(seconds, 3600)
        return (f"{hours}:{seconds // 60:02d}" if hours else f"{seconds // 60}") + f":{seconds % 60:02d}"

    def score_texts(self) -> dict[str, str]:
        """Label -> score (base) of every difficulty of the last evaluation."""
        return {
            f"{env} {d}": f"{env} {d}: {v:.2f} ({self._base.get((env, d), math.nan):.2f})"
            for (env, d), v in sorted(self._scores.items())
        }

    def game_texts(self) -> dict[str, str]:
        """Label -> what was measured last of every game."""
        of = {name: name.split("/")[1:] for name in self._games}
        return {f"{env} {what}": f"{env} {what}: {self._games[name]:.3g}" for name, (env, what) in of.items()}

    def _rate(self, name: str, form: str) -> str:
        return format(self._values[name], form) if name in self._values else ""

    def _say(self, line: str) -> None:
        print(line, file=self._out, flush=True)

    def _open_live(self) -> Live:
        from rich.console import Console
        from rich.live import Live

        live = Live(console=Console(file=self._out), refresh_per_second=4)
        live.start()
        return live

    def _table(self) -> RenderableType:
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        facts = Text(self._name, style="bold")
        for label, text in self.facts().items():
            facts.append(f"  {label} ", style="not bold dim").append(text, style="not bold")
        for text in self.game_texts().values():
            facts.append(f"  {text}", style="not bold")
        if not self._scores:
            return facts
        scores = Table(box=box.SIMPLE_HEAD)
        for title in ("test pass@1", "base", "now", "change"):
            scores.add_column(title, justify="left" if title == "test pass@1" else "right")
        for (env, d), now in sorted(self._scores.items()):
            base = self._base.get((env, d), math.nan)
            scores.add_row(f"{env} {d}", f"{base:.3f}", f"{now:.3f}", f"{now - base:+.3f}")
        return Group(facts, scores)


def _of_game(name: str) -> bool:
    """Whether it is a measure of a game that is shown."""
    return name.startswith("game/") and name.rsplit("/", 1)[1] in GAME


def _scores(values: Mapping[str, float], whose: str) -> Scores:
    """The pass@1 of every difficulty that was measured; `whose` is test (now) or base."""
    found = ((_SCORE.match(name), v) for name, v in values.items())
    return {(m[2], int(m[3])): v for m, v in found if m and m[1] == whose and not math.isnan(v)}
