"""Seconds by what they were spent on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Watch:
    """Seconds by what they were spent on."""

    def __init__(self) -> None:
        self._spent: dict[str, float] = {}
        self._began = time.perf_counter()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._spent[name] = time.perf_counter() - began

    def __getitem__(self, name: str) -> float:
        return self._spent.get(name, 0.0)

    def total(self) -> float:
        """Seconds since the watch was made."""
        return time.perf_counter() - self._began
