"""Where a sampler's arrays lie: on this process's first device, or on a mesh."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from selfplay.models.decoder import Params
from selfplay.models.sharding import batch_parts, batch_sharding, by_rows, fetch, parameter_shardings, place


class Devices:
    """Weights lie as the learner's do, and rows with their caches are split."""

    def __init__(self, mesh: Mesh | None) -> None:
        """None = this process's first device."""
        self.mesh = mesh
        self.parts = 1 if mesh is None else batch_parts(mesh)
        """That share the rows."""
        on_cpu = jax.default_backend() == "cpu"
        alone = mesh is None or mesh.shape["data"] == mesh.size
        self.runs_ahead = mesh is None or not (mesh.is_multi_process or (on_cpu and not alone))
        """Whether a segment may be handed over while the one before it runs. Not where processes talk to read what it
        drew, as they would wait for both; nor where CPU devices talk within it, as XLA lets them wait for each other
        in the threads that they need."""

    def whole(self, arrays: Any) -> Any:
        """Whole on every device: arrays that came from elsewhere would have programs compiled of their own."""
        if self.mesh is None:
            return jax.device_put(arrays, jax.local_devices()[0])
        return place(arrays, NamedSharding(self.mesh, PartitionSpec()))

    def params(self, params: Params) -> Params:
        """Weights as PARAMETER_SPECS says; what is whole on every CPU device is there once."""
        if self.mesh is None:
            return dict(self.whole(params))
        shardings = parameter_shardings(params, self.mesh)
        if jax.default_backend() == "cpu" and self.mesh.size > 1 and not self.mesh.is_multi_process:
            params = _as_one(params, shardings)
        return dict(place(params, shardings))

    def rows(self, rows: Any) -> Any:
        """Arrays of some rows with the rows over the devices, where they divide; caches of such rows lie so too."""
        mesh = self.mesh_of(len(jax.tree.leaves(rows)[0]))
        return rows if mesh is None else place(rows, batch_sharding(mesh))

    def split(self, rows: Any) -> Any:
        """Arrays of some rows that lie on no device yet, over the devices where they divide, or else whole on each."""
        return self.whole(rows) if self.mesh_of(len(jax.tree.leaves(rows)[0])) is None else self.rows(rows)

    def take(self, tree: Any, rows: np.ndarray) -> Any:
        """Some rows of every array, repeated or left out: each device takes its own from what all have."""
        return self.rows(_take(self.mesh_of(len(rows)), tree, rows))

    def mesh_of(self, rows: int) -> Mesh | None:
        """The mesh that so many rows are split over; None where they do not divide, and every device has them all."""
        return None if rows % self.parts else self.mesh

    def fetch(self, arrays: Any) -> Any:
        """Small arrays as NumPy arrays, whole, at every process."""
        return jax.device_get(arrays) if self.mesh is None else fetch(arrays, self.mesh)


def _as_one(params: Params, shardings: Params) -> Params:
    """The same with all that will lie whole on several CPU devices as one NumPy array, so that all of them read that
    one: they have the same memory, and share a cache of the processor."""
    host = jax.tree.map(lambda x, at: np.asarray(x) if at.is_fully_replicated else x, params, shardings)
    return dict(host)


@partial(jax.jit, static_argnums=0)
def _take(mesh: Mesh | None, tree: Any, rows: jax.Array) -> Any:
    def taken(tree: Any, rows: jax.Array) -> Any:
        return jax.tree.map(lambda x: jnp.take(x, rows, axis=0), tree)

    return by_rows(taken, mesh, 1)(tree, rows)
