"""Adapters: the base to the bit at first, by hand, merged, and split off again."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfplay.config import Lora
from selfplay.errors import UserError
from selfplay.models import ModelConfig, forward, init_params
from selfplay.models.decoder import Linear, abstract_params, nnx
from selfplay.models.lora import init_adapter, join, merged, split

BASE = ModelConfig(
    family="qwen2", vocab_size=12, hidden_size=16, layers=2, heads=2, kv_heads=1, head_dim=8, intermediate_size=32,
    qkv_bias=True,
)  # fmt: skip
CONFIG = replace(BASE, lora=Lora(rank=2, alpha=6.0))
IDS = jnp.array([[3, 1, 4, 1, 5, 9]])
PLACE = jnp.arange(6)[None], jnp.ones((1, 6), jnp.int32)


@pytest.fixture(scope="module")
def base():
    return init_params(BASE, jax.random.key(0))


@pytest.fixture(scope="module")
def adapter():
    return init_adapter(CONFIG, jax.random.key(1))


def hidden(config, params):
    return forward(config, params, IDS, *PLACE)


def test_an_adapted_matrix_by_hand():
    linear = Linear(2, 2, bias=True, std=1.0, rngs=nnx.Rngs(0))
    linear.adapt(Lora(rank=1, alpha=3.0))
    linear.weight[...] = jnp.array([[1.0, 3.0], [0.0, 2.0]])  # [out, in]
    linear.bias[...] = jnp.array([10.0, 0.0])
    linear.lora_a[...] = jnp.array([[1.0], [2.0]])
    linear.lora_b[...] = jnp.array([[0.5, -1.0]])
    # x W^T + b = [14, 2]; x A = 3; 3 / 1 * 3 * B = [4.5, -9]
    np.testing.assert_allclose(linear(jnp.array([[1.0, 1.0]])), [[18.5, -7.0]])


def test_a_fresh_adapter_is_the_base_to_the_bit(base, adapter):
    np.testing.assert_array_equal(hidden(CONFIG, join(base, adapter)), hidden(BASE, base))


def test_without_its_adapter_a_tree_is_the_base(base):
    np.testing.assert_array_equal(hidden(CONFIG, base), hidden(BASE, base))


def test_a_trained_adapter_changes_what_is_said_and_merges_into_the_matrices(base, adapter):
    trained = jax.tree.map(lambda x: x + 0.1, adapter)
    adapted = hidden(CONFIG, join(base, trained))
    assert float(jnp.abs(adapted - hidden(BASE, base)).max()) > 0.1
    whole = merged(CONFIG, join(base, trained))
    assert jax.tree.map(jnp.shape, whole) == jax.tree.map(jnp.shape, base)
    np.testing.assert_allclose(hidden(BASE, whole), adapted, atol=1e-5)


def test_split_takes_the_adapter_out_and_join_puts_it_back(base, adapter):
    taken, rest = split(join(base, adapter))
    assert jax.tree.structure(taken) == jax.tree.structure(adapter)
    assert jax.tree.structure(rest) == jax.tree.structure(base)
    assert len(jax.tree.leaves(taken)) == 2 * 7 * BASE.layers
    with pytest.raises(ValueError, match="both trees hold"):
        join(base, base)


def test_only_the_named_matrices_are_adapted():
    few = replace(BASE, lora=Lora(rank=2, targets=("q", "down")))
    names = {path[2].key for path, _ in jax.tree_util.tree_flatten_with_path(split(abstract_params(few))[0])[0]}
    assert names == {"attn", "mlp"}
    assert len(jax.tree.leaves(split(abstract_params(few))[0])) == 2 * 2 * BASE.layers


def test_an_adapter_of_bfloat16_weights_merges_in_their_type(base, adapter):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), base)
    whole = merged(CONFIG, join(half, jax.tree.map(lambda x: x + 0.1, adapter)))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(whole)} == {"bfloat16"}


@pytest.mark.parametrize("bad", [{"rank": -1}, {"alpha": 0.0}, {"targets": ()}, {"targets": ("q", "q")}])
def test_settings_out_of_bounds_are_refused(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        Lora(**{"rank": 2, **bad})
