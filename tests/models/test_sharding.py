from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from selfplay.errors import UserError
from selfplay.models import forward, logits
from selfplay.models.decoder import abstract_params
from selfplay.models.hf import TENSOR_NAMES
from selfplay.models.sharding import (
    MATRIX_SPECS,
    PARAMETER_SPECS,
    batch_parts,
    batch_sharding,
    check_mesh,
    make_mesh,
    parameter_shardings,
    shard_params,
)
from tests.models.shapes import LLAMA, QWEN2, QWEN3, random_params


def _loss(params, batch):
    hidden = forward(QWEN3, params, batch["ids"], batch["positions"], batch["segment_ids"])
    logp = jax.nn.log_softmax(logits(QWEN3, params, hidden))
    taken = jnp.take_along_axis(logp[:, :-1], batch["ids"][:, 1:, None], axis=-1)[..., 0]
    return -(taken * batch["weights"][:, 1:]).sum()


def _batch(rows, length=10):
    ids = np.random.default_rng(0).integers(4, 100, (rows, length)).astype(np.int32)
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), ids.shape)
    weights = np.full(ids.shape, 1 / ids.size, np.float32)
    return {"ids": ids, "positions": positions, "segment_ids": np.ones_like(ids), "weights": weights}


@pytest.mark.parametrize("shape", [pytest.param((8, 1, 1), marks=pytest.mark.proof), (2, 2, 2)])
def test_loss_and_gradients_agree_on_one_and_eight_devices(shape):
    params, batch = random_params(QWEN3), _batch(8)
    step = jax.jit(jax.value_and_grad(_loss))
    loss, grads = step(params, batch)
    mesh = make_mesh(*shape)
    spread = jax.device_put(batch, batch_sharding(mesh))
    assert len(spread["ids"].sharding.device_set) == 8
    assert {s.data.shape[0] for s in spread["ids"].addressable_shards} == {8 // batch_parts(mesh)}
    loss8, grads8 = step(shard_params(params, mesh), spread)
    np.testing.assert_allclose(loss8, loss, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), grads8, grads)


def test_every_parameter_of_every_family_has_one_spec_of_its_rank():
    own = {name for name in PARAMETER_SPECS if "lora" not in name}
    assert own == set(TENSOR_NAMES) and len(PARAMETER_SPECS) - len(own) == 2 * len(MATRIX_SPECS)
    mesh = make_mesh(1, 2, 2)
    for config in (QWEN3, QWEN2, LLAMA):
        shardings = parameter_shardings(abstract_params(config), mesh)
        jax.tree.map(lambda s, x: s.shard_shape(x.shape), shardings, abstract_params(config))
    assert shardings["layers"]["0"]["attn"]["q"]["weight"].spec == P("tensor", "fsdp")


def test_an_axis_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match="parameter embed: axis 0 of size 7 does not divide over mesh.tensor = 2"):
        parameter_shardings({"embed": jnp.zeros((7, 4))}, make_mesh(1, 2, 2))
    with pytest.raises(UserError, match="layers.0.attn.k.weight: axis 1 of size 32 .* mesh.fsdp = 3"):
        parameter_shardings({"layers": abstract_params(QWEN3)["layers"]}, make_mesh(1, 3, 1))


def test_a_query_head_is_never_cut():
    check_mesh(QWEN3, make_mesh(1, 2, 4))  # 4 query heads; the 2 key heads may be shared
    with pytest.raises(UserError, match="4 attention heads do not divide over mesh.tensor = 8"):
        check_mesh(QWEN3, make_mesh(1, 1, 8))


def test_a_batch_that_does_not_divide_is_never_copied_to_every_device():
    with pytest.raises(ValueError, match="evenly divide"):
        jax.device_put(_batch(6), batch_sharding(make_mesh(2, 2, 1)))


def test_a_mesh_larger_than_the_machine_is_refused():
    with pytest.raises(UserError, match="needs 16 devices, got 8"):
        make_mesh(16)
    with pytest.raises(UserError, match="must be >= 1"):
        make_mesh(0)
