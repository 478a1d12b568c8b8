"""A TensorBoard event file: scalars, text, pictures, the front page and the hyperparameters, written synchronously.

tensorboardX supplies the record format and the protocol buffers. Its SummaryWriter is not used: it rewrites the
`@` of `pass@1`, hands events to a thread, and puts hyperparameters into a run of their own.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tensorboardX import summary as tbx
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

Layout = Mapping[str, Sequence[str]]
"""Chart title -> regular expressions of the tags that it draws."""

FLUSH_S = 2.0
"""Longest time, in seconds, that a step's events wait before they reach the file."""


class Events:
    """One event file of a run folder. TensorBoard reads all of them, in the order of their names."""

    def __init__(self, folder: Path, *, purge_step: int | None) -> None:
        """Open a new file.

        Args:
          folder: the run folder.
          purge_step: TensorBoard forgets what earlier files hold from this step on; None = nothing.
        """
        number = len(list(folder.glob("events.out.tfevents.*")))  # two files opened in one second stay apart
        self._file = EventsWriter(str(folder / "events"), filename_suffix=f".{number:03d}")
        self._flushed = time.monotonic()
        if purge_step is not None:
            self._write(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Points of many curves at one x; NaN means no value and draws nothing."""
        points = [Summary.Value(tag=tag, simple_value=v) for tag, v in values.items() if not math.isnan(v)]
        if points:
            self._summary(Summary(value=points), step)

    def text(self, step: int, tag: str, markdown: str) -> None:
        """A text panel."""
        self._summary(tbx.text(tag, markdown), step)

    def image(self, step: int, tag: str, rgb: np.ndarray) -> None:
        """A picture, [H, W, 3] uint8."""
        png = io.BytesIO()
        Image.fromarray(rgb).save(png, format="PNG")
        height, width, channels = rgb.shape
        picture = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=png.getvalue())
        self._summary(Summary(value=[Summary.Value(tag=tag, image=picture)]), step)

    def front_page(self, title: str, charts: Layout) -> None:
        """The custom scalars page."""
        layout = {title: {name: ["Multiline", list(tags)] for name, tags in charts.items()}}
        self._summary(tbx.custom_scalars(layout), 0)

    def hyperparameters(self, flat: Mapping[str, bool | int | float | str], metrics: Sequence[str]) -> None:
        """The hyperparameters of this run and the curves whose last points stand beside them."""
        experiment, start, _ = tbx.hparams(dict(flat), dict.fromkeys(metrics, 0.0))
        self._summary(experiment, 0)
        self._summary(start, 0)

    def finished(self) -> None:
        """Mark the hyperparameters' session as ended well."""
        self._summary(tbx.hparams({}, {})[2], 0)

    def flush(self) -> None:
        """Bring everything to the disk."""
        self._file.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        self._file.close()

    def _summary(self, summary: Summary, step: int) -> None:
        self._write(Event(step=step, summary=summary))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._file.write_event(event)
        if time.monotonic() - self._flushed > FLUSH_S:
            self.flush()
