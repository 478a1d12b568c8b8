"""Keys and values of what rows have read: how they lie, how they are written, and how there comes to be room for more.

A cache has one slot a position: the token at position p of a row lives in slot p, whatever wrote it. What padding
leaves in later slots is never seen, because a token sees only slots up to its own position, and the token that belongs
there overwrites it first.

A decode step sums keys over their width. They lie in blocks of `lanes` slots with the width before them, so that what
the sum reads one after the other lies so: a CPU reads them twice as fast as with all slots of a row side by side.

Where rows are attempts at the same prompts, A of each side by side, their first slots can lie in the cache once a
prompt (`cut`): a decode step then reads them once.

Letters: B rows, K key and value heads, H head width, T tokens, S slots = C blocks of L slots; P prompts, F slots that
are shared.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from selfplay.models.config import ModelConfig

Shared: TypeAlias = tuple[Float[Array, "P K F H"], Float[Array, "P K H F"]]
"""Keys and values of slots that several rows share. A CPU multiplies them by these few rows, and so reads them as they
lie (`project.py`)."""


class LayerCache(NamedTuple):
    """Rotated keys, and values, of one layer: what a decode step sums over, width and slots, lies before what it
    keeps."""

    keys: Float[Array, "B K C H L"]
    values: Float[Array, "B K S H"]
    shared: Shared | None = None
    """Of the slots before those above, for B / P rows each; None = there are none."""

    @property
    def first(self) -> int:
        """F, the slot that `keys` and `values` begin with."""
        return 0 if self.shared is None else self.shared[0].shape[2]

    @property
    def slots(self) -> int:
        """How many tokens a row has room for."""
        return self.first + self.values.shape[2]


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

    return [LayerCache(zeros(keys), zeros(values)) for _ in range(config.layers)]  # their own arrays: it is donated


def cached(keys: Float[Array, "B K T H"], values: Float[Array, "B K T H"], slots: int) -> LayerCache:
    """A layer's cache of `slots` >= T in which these tokens were read first."""
    room = ((0, 0), (0, 0), (0, slots - keys.shape[2]), (0, 0))
    keys, values = jnp.pad(keys, room), jnp.pad(values, room)
    blocks = keys.reshape(*keys.shape[:2], -1, lanes(slots), keys.shape[3])
    return LayerCache(blocks.swapaxes(3, 4), values)


def with_slots(layer: LayerCache, slots: int) -> LayerCache:
    """A layer's cache with empty slots behind those that there are, up to `slots`."""
    keys, values, shared = layer
    slots -= layer.first
    if (width := keys.shape[4]) != lanes(slots):
        return cached(by_slot(keys), values, slots)._replace(shared=shared)
    room = slots - values.shape[2]
    blocks, behind = (0, room // width), (0, room)
    keys = jnp.pad(keys, ((0, 0), (0, 0), blocks, (0, 0), (0, 0)))
    return LayerCache(keys, jnp.pad(values, ((0, 0), (0, 0), behind, (0, 0))), shared)


def cut(layer: LayerCache, slots: int) -> tuple[Shared, LayerCache]:
    """The first `slots`, a multiple of L, of every row, as rows share them, and the rest."""
    keys, values, _ = layer
    blocks = slots // keys.shape[4]
    first = by_slot(keys[:, :, :blocks]), values[:, :, :slots].swapaxes(2, 3)
    return first, LayerCache(keys[:, :, blocks:], values[:, :, slots:])


def unshare(layer: LayerCache) -> LayerCache:
    """The same with all slots in every row."""
    if layer.shared is None:
        return layer
    each = len(layer.values) // len(layer.shared[1])
    keys, values = (x.repeat(each, axis=0) for x in layer.shared)
    whole = jnp.concatenate([keys, by_slot(layer.keys)], axis=2)
    return cached(whole, jnp.concatenate([values.swapaxes(2, 3), layer.values], axis=2), layer.slots)


def by_slot(keys: Float[Array, "B K C H L"]) -> Float[Array, "B K S H"]:
    """Keys slot by slot, as `attend` and `cached` take them."""
    b, heads, blocks, width, size = keys.shape
    return keys.swapaxes(2, 3).reshape(b, heads, width, blocks * size).swapaxes(2, 3)  # runs of slots, and a view


def write(
    layer: LayerCache, keys: Float[Array, "B K T H"], values: Float[Array, "B K T H"], positions: Int[Array, "B T"]
) -> LayerCache:
    """Put each row's new keys and values into the slots of their positions; positions past the end are dropped."""
    rows, heads = jnp.arange(len(keys))[:, None, None], jnp.arange(keys.shape[1])[:, None]
    slots = positions[:, None] - layer.first
    block, lane = jnp.divmod(slots, layer.keys.shape[4])
    kept = layer.keys.at[rows, heads, block, :, lane].set(keys, mode="drop", unique_indices=True)
    return LayerCache(
        kept, layer.values.at[rows, heads, slots].set(values, mode="drop", unique_indices=True), layer.shared
    )
