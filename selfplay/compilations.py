"""How many programs XLA has built, or fetched from the persistent cache, in this process.

A number that goes on rising after the first generation means that some shape follows the data: every new one costs
seconds to minutes.
"""

from __future__ import annotations

from functools import lru_cache

import jax

EVENT = "/jax/core/compile/backend_compile_duration"
"""What jax says after each; cached programs included."""


class Compilations:
    """Counts from when it is made."""

    def __init__(self) -> None:
        self._before = _counter().total

    def count(self) -> int:
        """Programs since then."""
        return _counter().total - self._before


class _Counter:
    def __init__(self) -> None:
        self.total = 0
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        self.total += event == EVENT


@lru_cache(maxsize=1)
def _counter() -> _Counter:
    """The one of this process; it counts from its first use on."""
    return _Counter()
