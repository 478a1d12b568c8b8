"""Where every random draw comes from: one key per (run seed, stream, generation, step, unit, row, seat, position).

There is no global generator anywhere, so a draw never depends on process, timing or neighbours.
"""

from __future__ import annotations

from enum import IntEnum

import jax
import jax.numpy as jnp
import numpy as np


class Stream(IntEnum):
    """What a draw is for. Closed, and numbered for good: a number is never reused."""

    PROPOSE = 0
    SOLVE = 1
    PLAY = 2
    EVALUATE = 3
    TASKMIX = 4
    MATCH = 5
    REFERENCES = 6
    MINIBATCH = 7
    INIT = 8
    EXAMPLES = 9
    GATE = 10
    ROLL_BACK = 11


def stream_key(seed: int, stream: Stream, *path: int) -> jax.Array:
    """The key at a path: fold_in over (stream, *path) from the run's seed.

    Args:
      path: generation, step, unit, row, seat, position, as far as the draw needs.
    """
    key = jax.random.fold_in(jax.random.key(seed), int(stream))
    for part in path:
        key = jax.random.fold_in(key, part)
    return key


@jax.jit
def _rows(key: jax.Array, rows: jax.Array) -> jax.Array:
    return jax.vmap(lambda r: jax.random.key_data(jax.random.fold_in(key, r)))(rows)


def row_keys(
    seed: int, stream: Stream, generation: int, step: int, unit: int, rows: int, *, seat: int = 0
) -> np.ndarray:
    """Raw keys [rows, 2] uint32 of a unit's rows for one seat; the sampler folds each position in."""
    key = jax.random.fold_in(stream_key(seed, stream, generation, step, unit), seat)
    return np.asarray(_rows(key, jnp.arange(rows)))


def python_seed(seed: int, stream: Stream, *path: int) -> int:
    """A 32-bit seed for plain Python code at the same kind of path."""
    data = jax.random.key_data(stream_key(seed, stream, *path))
    return int(np.asarray(data)[-1])


def draw_seed(seed: int, roll_backs: int) -> int:
    """The seed that training draws are keyed with: the run's own, and another after every roll-back."""
    return python_seed(seed, Stream.ROLL_BACK, roll_backs) % 2**31 if roll_backs else seed
