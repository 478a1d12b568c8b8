"""Rows that a sampler's devices take: those asked for, split over the devices where they divide."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from selfplay.devices import Devices
from selfplay.models.sharding import batch_sharding, make_mesh

TREE = {"a": np.arange(8), "b": np.arange(48.0).reshape(8, 2, 3)}


@pytest.mark.parametrize("rows", [[7, 0, 3, 3], [2, 5, 5, 1, 0, 6, 7, 4], [3, 1]], ids=len)
@pytest.mark.parametrize("axes", [None, (4, 1, 1), (2, 2, 1), (2, 1, 2)], ids=str)
def test_rows_are_those_asked_for_and_lie_apart(rows, axes):
    devices = Devices(None if axes is None else make_mesh(*axes))
    taken = devices.take(devices.rows(TREE) if axes else TREE, np.array(rows))
    jax.tree.map(lambda found, given: np.testing.assert_array_equal(found, given[rows]), taken, TREE)
    if axes is not None and len(rows) % devices.parts == 0:
        apart = batch_sharding(devices.mesh)
        assert all(x.sharding.is_equivalent_to(apart, x.ndim) for x in jax.tree.leaves(taken))
