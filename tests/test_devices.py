"""Rows that a sampler's devices take: those asked for, split over the devices where they divide."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from selfplay.devices import Devices
from selfplay.models import ModelConfig, init_params
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


CONFIG = ModelConfig(
    family="qwen3", vocab_size=32, hidden_size=16, layers=1, heads=2, kv_heads=2, head_dim=8, intermediate_size=32,
    qk_norm=True, tie_embeddings=True, max_positions=64, eos_ids=(2,), bos_id=1, pad_id=0,
)  # fmt: skip


@pytest.mark.parametrize("axes", [(4, 1, 1), (2, 2, 1), (1, 1, 2)], ids=str)
def test_cpu_devices_read_one_copy_of_what_is_whole_on_each(axes):
    params = init_params(CONFIG, jax.random.key(0))
    placed = Devices(make_mesh(*axes)).params(params)
    for found, given in zip(jax.tree.leaves(placed), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(found, given)
        copies = {shard.data.unsafe_buffer_pointer() for shard in found.addressable_shards}
        assert len(copies) == (1 if found.sharding.is_fully_replicated else len(found.addressable_shards))


def test_segments_are_handed_over_early_where_devices_need_not_talk():
    meshes = {axes: None if axes is None else make_mesh(*axes) for axes in (None, (4, 1, 1), (2, 2, 1), (2, 1, 2))}
    ahead = {axes: Devices(mesh).runs_ahead for axes, mesh in meshes.items()}
    assert ahead == {None: True, (4, 1, 1): True, (2, 2, 1): False, (2, 1, 2): False}
