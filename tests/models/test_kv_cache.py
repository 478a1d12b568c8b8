"""How keys and values lie in a cache: each where it was written, whatever the blocks, and none lost by growing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfplay.models.attention import attend, attend_cached
from selfplay.models.kv_cache import by_slot, cached, cut, empty_cache, lanes, unshare, with_slots, write
from tests.models.shapes import QWEN3

SLOTS = (64, 96, 128, 192)


def normal(*shape, key=0):
    return jax.random.normal(jax.random.key(key), shape)


def test_blocks_of_a_cpu_by_hand(monkeypatch):
    assert [lanes(slots) for slots in (64, 96, 128, 192, 100)] == [64, 32, 64, 64, 100]
    keys = jnp.arange(128.0).reshape(1, 1, 128, 1) + jnp.array([0.0, 0.5])  # slot s holds (s, s + 1/2)
    blocked = cached(keys, keys, 128).keys
    np.testing.assert_array_equal(blocked[0, 0, 1, :, :2], [[64, 65], [64.5, 65.5]])
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert lanes(96) == 96


@pytest.mark.parametrize("slots", SLOTS)
def test_what_is_written_lies_in_its_slot_and_nowhere_else(slots):
    keys, values = normal(2, 1, 40, 4), normal(2, 1, 40, 4, key=1)
    at = jnp.array([[39, 40], [slots - 1, slots]])
    layer = write(cached(keys, values, slots), -keys[:, :, :2], -values[:, :, :2], at)
    expected = np.zeros((2, 1, slots, 4), np.float32)
    for found, given in ((by_slot(layer[0]), keys), (layer[1], values)):
        expected[:, :, :40], expected[:, :, 40:] = given, 0
        expected[0, :, 39:41], expected[1, :, -1] = -given[0, :, :2], -given[1, :, 0]  # the last is past the end
        np.testing.assert_array_equal(found, expected)


def test_growing_keeps_all_and_adds_nothing():
    keys, values = normal(2, 1, 50, 4), normal(2, 1, 50, 4, key=1)
    layer = cached(keys, values, SLOTS[0])
    for slots in SLOTS[1:]:
        layer = with_slots(layer, slots)
        empty = jax.eval_shape(lambda: empty_cache(QWEN3, 2, slots, jnp.float32))[0]  # noqa: B023
        assert layer[0].shape[2] == empty[0].shape[2] and layer[0].shape[4] == empty[0].shape[4]
        for found, given in ((by_slot(layer[0]), keys), (layer[1], values)):
            np.testing.assert_array_equal(found[:, :, :50], given)
            assert found.shape[2] == slots and not found[:, :, 50:].any()


@pytest.mark.parametrize("slots", SLOTS)
@pytest.mark.parametrize("tokens", [1, 3])
def test_attention_is_the_same_over_blocks(slots, tokens):
    q, keys, values = normal(2, tokens, 4, 8), normal(2, 2, slots, 8, key=1), normal(2, 2, slots, 8, key=2)
    mask = normal(2, tokens, slots, key=3) > 0
    plain = attend(q, keys, values, mask, scale=0.3, softcap=20.0)
    blocks = attend_cached(q, cached(keys, values, slots), mask, scale=0.3, softcap=20.0)
    np.testing.assert_allclose(blocks, plain, atol=1e-6)


def attempts(slots):
    """Caches of 2 prompts with 3 attempts each, alike in their first 64 slots, whole and shared."""
    begun = [normal(2, 2, 64, 8, key=key).repeat(3, axis=0) for key in (1, 2)]
    own = [normal(6, 2, slots - 64, 8, key=key) for key in (3, 4)]
    whole = cached(*(jnp.concatenate(pair, axis=2) for pair in zip(begun, own, strict=True)), slots)
    first, rest = cut(whole, 64)
    return whole, rest._replace(shared=tuple(x[::3] for x in first))


@pytest.mark.parametrize("slots", [64, 128, 192])
def test_what_attempts_share_lies_once_and_comes_back(slots):
    whole, shared = attempts(slots)
    assert shared.shared[0].shape == (2, 2, 64, 8) and shared.shared[1].shape == (2, 2, 8, 64)
    assert shared.values.shape == (6, 2, slots - 64, 8) and (shared.first, shared.slots) == (64, slots)
    for room in (slots, max(slots, 96), 256):  # of 96 slots, blocks of 32 lie behind those that are shared
        for found, given in zip(unshare(with_slots(shared, room))[:2], with_slots(whole, room)[:2], strict=True):
            np.testing.assert_array_equal(found, given)


@pytest.mark.parametrize("slots", [128, 192])
def test_attempts_that_share_attend_as_they_do_alone(slots):
    whole, shared = attempts(slots)
    q, mask = normal(6, 1, 4, 8), normal(6, 1, slots, key=5) > 0
    at, new = jnp.full((6, 1), 70) + jnp.arange(6)[:, None], normal(6, 2, 1, 8, key=6)
    one, other = (attend_cached(q, write(x, new, -new, at), mask, scale=0.3, softcap=20.0) for x in (whole, shared))
    np.testing.assert_allclose(one, other, atol=1e-6)
