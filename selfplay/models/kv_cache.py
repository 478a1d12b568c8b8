"""Keys and values of what rows have read: how they lie, how they are written, and how there comes to be room for more.

A cache has one slot a position: the token at position p of a row lives in slot p, whatever wrote it. What padding
leaves in later slots is never seen, because a token sees only slots up to its own position, and the token that belongs
there overwrites it first.

A decode step sums keys over their width. They lie in blocks of `lanes` slots with the width before them, so that what
the sum reads one after the other lies so: a CPU reads them twice as fast as with all slots of a row side by side.

Letters: B rows, K key and value heads, H head width, T tokens, S slots = C blocks of L slots.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from selfplay.models.config import ModelConfig

LayerCache: TypeAlias = tuple[Float[Array, "B K C H L"], Float[Array, "B K S H"]]
"""Rotated keys, and values, of one layer: what a decode step sums over, width and slots, lies before what it keeps."""

Cache: TypeAlias = list[LayerCache]

LANES = (64, 32)
"""L on a CPU, where the slots divide by it; measured in docs/performance.md."""


def lanes(slots: int) -> int:
    """L of so many slots; all of them but on a CPU."""
    if jax.default_backend() != "cpu":
        return slots
    return next((n for n in LANES if slots % n == 0), slots)


def empty_cache(config: ModelConfig, rows: int, slots: int, dtype: Any) -> Cache:
    """A cache in which nothing was read yet."""
    width = lanes(slots)
    keys, values = (slots // width, config.head_dim, width), (slots, config.head_dim)

    def zeros(shape: tuple[int, ...]) -> Array:
        return jnp.zeros((rows, config.kv_heads, *shape), dtype)

    return [(zeros(keys), zeros(values)) for _ in range(config.layers)]  # arrays of their own: a cache is donated


def cached(keys: Float[Array, "B K T H"], values: Float[Array, "B K T H"], slots: int) -> LayerCache:
    """A layer's cache of `slots` >= T in which these tokens were read first."""
    room = ((0, 0), (0, 0), (0, slots - keys.shape[2]), (0, 0))
    keys, values = jnp.pad(keys, room), jnp.pad(values, room)
    blocks = keys.reshape(*keys.shape[:2], -1, lanes(slots), keys.shape[3])
    return blocks.swapaxes(3, 4), values


def with_slots(layer: LayerCache, slots: int) -> LayerCache:
    """A layer's cache with empty slots behind those that there are, up to `slots`."""
    keys, values = layer
    if (width := keys.shape[4]) != lanes(slots):
        return cached(by_slot(keys).swapaxes(2, 3), values, slots)
    room = slots - values.shape[2]
    blocks, behind = (0, room // width), (0, room)
    return jnp.pad(keys, ((0, 0), (0, 0), blocks, (0, 0), (0, 0))), jnp.pad(values, ((0, 0), (0, 0), behind, (0, 0)))


def by_slot(keys: Float[Array, "B K C H L"]) -> Float[Array, "B K H S"]:
    """Keys with all slots of a row side by side."""
    b, heads, blocks, width, size = keys.shape
    return keys.swapaxes(2, 3).reshape(b, heads, width, blocks * size)


def write(
    layer: LayerCache, keys: Float[Array, "B K T H"], values: Float[Array, "B K T H"], positions: Int[Array, "B T"]
) -> LayerCache:
    """Put each row's new keys and values into the slots of their positions; positions past the end are dropped."""
    rows, heads, slots = jnp.arange(len(keys))[:, None, None], jnp.arange(keys.shape[1])[:, None], positions[:, None]
    block, lane = jnp.divmod(slots, layer[0].shape[4])
    kept = layer[0].at[rows, heads, block, :, lane].set(keys, mode="drop", unique_indices=True)
    return kept, layer[1].at[rows, heads, slots].set(values, mode="drop", unique_indices=True)
