"""Slot recycling: rows of a call that wait for a place, and the caches of those that had one.

Which row gets which place follows from what the call itself has drawn. A row's noise comes from its own key and
positions, so its tokens do not depend on the place, nor on when it got it.
"""

from __future__ import annotations

import numpy as np

from selfplay.caches import ROW_BUCKET, Rows, grow, slots_of, swap
from selfplay.devices import Devices


class Waiting:
    """All rows of a call, of which only so many have a place at a time."""

    def __init__(self, devices: Devices, store: Rows, rows: np.ndarray, places: int) -> None:
        """Rows `rows` of the store get a place in this order."""
        self._devices, self.store, self.rows, self.places = devices, store, rows, places

    def first(self) -> tuple[Rows, np.ndarray, np.ndarray]:
        """The rows that start, the row in each place, and whether there is one."""
        come, self.rows = self.rows[: self.places], self.rows[self.places :]
        count = len(self.store.position)
        home = np.pad(come, (0, self.places - come.size), constant_values=count)
        return self._devices.take(self.store, np.minimum(home, count - 1)), home, home < count

    def refill(self, state: Rows, home: np.ndarray, alive: np.ndarray) -> Rows:
        """Rows that wait take the places of rows that stopped, ROW_BUCKET at a time; `home` and `alive` are updated."""
        if slots_of(self.store.cache) < slots_of(state.cache):
            self.store = self.store._replace(cache=grow(self.store.cache, slots=slots_of(state.cache)))
        while self.rows.size and not alive.all():
            free = np.flatnonzero(~alive)[: min(self.rows.size, ROW_BUCKET)]
            come, self.rows = self.rows[: free.size], self.rows[free.size :]
            self.store, state = swap(self.store, state, *(_fill(indices) for indices in (free, home[free], come)))
            home[free], alive[free] = come, True
        return state


def _fill(indices: np.ndarray) -> np.ndarray:
    """ROW_BUCKET indices, those that are missing out of any range."""
    missing = ROW_BUCKET - indices.size
    return np.pad(indices, (0, missing), constant_values=np.iinfo(np.int32).max).astype(np.int32)
