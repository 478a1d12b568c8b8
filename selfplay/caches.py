"""Rows that decode side by side and the caches that they have: taken, swapped, merged, grown, and how large they are.

Letters: R rows, T tokens, S cache slots, K key and value heads, H head width, D width.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from selfplay.models.config import ModelConfig
from selfplay.models.kv_cache import Cache, with_slots
from selfplay.trie import Allowed

TOKEN_BUCKET = 32
"""Prompt widths and token limits are rounded up to multiples of this, so that few shapes are ever compiled."""

LEAST_SLOTS = 64
"""Cache slots a row at first; doubled as often as needed."""

ROW_BUCKET = 8
"""Row counts are rounded up to multiples of this."""

SEGMENT = 8
"""Tokens decoded between two looks at which rows are finished."""


class Rows(NamedTuple):
    """Rows that decode side by side; every field's leading axis is the row."""

    token: Int[Array, " R"]
    """The last that was drawn, not in the cache yet."""
    position: Int[Array, " R"]
    """Of that token."""
    uniforms: Float[Array, "R T"]
    """The noise of every token of the call."""
    alive: Bool[Array, " R"]
    """Which have not ended, as far as a device can see: a text to stop at is looked for on the host."""
    cache: Cache
    allowed: Allowed | None = None
    """What each may write next; None = anything."""


@partial(jax.jit, donate_argnums=(0, 1))
def swap(
    store: Rows, rows: Rows, places: Int[Array, " n"], old: Int[Array, " n"], new: Int[Array, " n"]
) -> tuple[Rows, Rows]:
    """Rows `old` of the store leave their places and rows `new` take them; what lies out of range is passed over."""

    def kept(whole: jax.Array, part: jax.Array) -> jax.Array:
        return whole.at[old].set(part[places], mode="drop", unique_indices=True)

    def filled(part: jax.Array, whole: jax.Array) -> jax.Array:
        return part.at[places].set(whole[new], mode="drop", unique_indices=True)

    cache = jax.tree.map(kept, store.cache, rows.cache)
    store = store._replace(cache=cache)
    swapped: Rows = jax.tree.map(filled, rows, store)  # after `kept`, from what it made: nothing needs a copy
    return store, swapped


def merge(pieces: Sequence[tuple[Cache, np.ndarray]], slots: int) -> Cache:
    """One cache of all rows with room for `slots`; where a row occurs in several pieces the last holds."""
    caches, homes = zip(*pieces, strict=True)
    merged: Cache = _gather(list(caches), list(homes[1:]), slots=slots)
    return merged


@partial(jax.jit, static_argnames="slots")
def _gather(caches: list[Cache], homes: list[np.ndarray], *, slots: int) -> Cache:
    first, *later = (_with_slots(cache, slots) for cache in caches)
    for cache, home in zip(later, homes, strict=True):
        first = jax.tree.map(lambda whole, rows, home=home: whole.at[home].set(rows, mode="drop"), first, cache)
    return first


@partial(jax.jit, static_argnames="slots")
def grow(cache: Cache, *, slots: int) -> Cache:
    """The cache with empty slots behind those that there are, up to `slots`."""
    return _with_slots(cache, slots)


def _with_slots(cache: Cache, slots: int) -> Cache:
    return [with_slots(layer, slots) for layer in cache]


def slots_of(cache: Cache) -> int:
    """How many tokens a row of the cache has room for."""
    return cache[0].slots


def cache_bytes(
    config: ModelConfig, *, rows: int, tokens: int, dtype: Any, parts: int = 1, places: int = 0
) -> tuple[int, int]:
    """Bytes of one device's cache of a call whose rows reach `tokens`, and the most that the call may hold at once.

    Rows that move into a smaller bucket leave their old cache behind until the call ends.

    Args:
      parts: devices that share the rows (`batch_parts`); a bucket that does not divide is whole on each.
      places: rows that decode side by side, of SamplingSpec.slots; 0 = all. All rows keep a cache besides.
    """
    row = (
        2 * config.layers * config.kv_heads * config.head_dim * slot_bucket(tokens, tokens) * jnp.dtype(dtype).itemsize
    )
    whole, places = up(rows, ROW_BUCKET), up(places, ROW_BUCKET)
    waiting = 0 < places < whole

    def held(bucket: int) -> int:
        return bucket if bucket % parts else bucket // parts

    first = held(places) + held(whole) if waiting else held(whole)
    shrunk = row_buckets(places if waiting else rows, parts) - {places if waiting else whole}
    return first * row, (first + sum(held(bucket) for bucket in shrunk)) * row


def up(n: int, multiple: int = TOKEN_BUCKET) -> int:
    """n rounded up to a multiple."""
    return -(-n // multiple) * multiple


def prompt_bucket(prompts: int) -> int:
    """Prompts that are read together: powers of two up to ROW_BUCKET, then its multiples, as a row of nothing takes as
    long to read as any."""
    return 1 << (prompts - 1).bit_length() if prompts < ROW_BUCKET else up(prompts, ROW_BUCKET)


def row_buckets(rows: int, parts: int) -> set[int]:
    """What a call of so many rows may shrink to: powers of two down to an eighth, which calls of any size share, and
    which divide over the devices that share rows."""
    least, powers = max(ROW_BUCKET, rows // 8), [2**k for k in range(rows.bit_length())]
    return {up(rows, ROW_BUCKET)} | {n for n in powers if least <= n < rows and n % parts == 0}


def will_stay(alive: int, ended: int, room: int, rooms: Collection[int]) -> bool:
    """Whether rows will need all of their bucket after the segment under way, even if twice as many end as in the last.

    Then nothing will move, and the next segment can begin before anybody has looked at this one.

    Args:
      room: the bucket.
      rooms: `row_buckets`.
    """
    return alive - 2 * ended > max((smaller for smaller in rooms if smaller < room), default=0)


def slot_bucket(tokens: int, most: int | None = None) -> int:
    """Cache slots for so many tokens: LEAST_SLOTS doubled, so that a call compiles few programs.

    Args:
      most: tokens that a row may ever come to have; where three quarters of the slots hold them, it is these.
    """
    slots = LEAST_SLOTS
    while slots < tokens:
        slots *= 2
    if most is not None and slots > LEAST_SLOTS and tokens <= most <= slots // 4 * 3:
        return slots // 4 * 3
    return slots


def few_tokens(n: int) -> int:
    """The width of what is read: a power of two while it is short, as the moves of a game are, and some prompts."""
    return up(n) if n > TOKEN_BUCKET // 2 else 1 << (n - 1).bit_length()


def pad_rows(x: np.ndarray, rows: int) -> np.ndarray:
    return np.pad(x, ((0, rows - len(x)), (0, 0)))


def pad(texts: Sequence[np.ndarray], rows: int, width: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Right-padded ids [rows, width] and lengths [rows]; width 0 = the bucket of the longest."""
    ids = np.zeros((rows, width or up(max(max(t.size for t in texts), 1))), np.int32)
    for row, text in enumerate(texts):
        ids[row, : text.size] = text
    return ids, np.array([t.size for t in texts] + [0] * (rows - len(texts)), np.int32)
