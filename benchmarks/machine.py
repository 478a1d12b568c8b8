"""What the machine at hand can do, measured beside the work: reading memory, and multiplying matrices."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.subject import seconds

READ_BYTES = 1 << 28
"""Far beyond any cache."""
SIDE = 1536
TRIES = 3


class Machine(NamedTuple):
    """Upper bounds for a program."""

    bytes_per_s: float
    """Reading weights, as a product of a matrix with one vector does: the fastest way to read that XLA has on CPU."""
    flops_per_s: float
    """A square product in the benchmark's dtype; a multiply-add is two."""

    def seconds(self, *, flops: float, read: float) -> float:
        """The roofline: what it takes to compute and to read, whichever is longer. Williams et al. 2009,
        doi:10.1145/1498765.1498785."""
        return max(flops / self.flops_per_s, read / self.bytes_per_s)


def machine(dtype: Any) -> Machine:
    """Measure both: the best of a few tries, as a bound is meant."""
    matrix, vector, square = _arrays(dtype)
    read = min(seconds(lambda: _product(matrix, vector)) for _ in range(TRIES))
    multiply = min(seconds(lambda: _product(square, square)) for _ in range(TRIES))
    return Machine(matrix.nbytes / read, 2 * SIDE**3 / multiply)


_product = jax.jit(jnp.matmul)


@cache
def _arrays(dtype: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    wide = READ_BYTES // jnp.dtype(dtype).itemsize // 4096
    made = jnp.ones((wide, 4096), dtype), jnp.ones(4096, dtype), jnp.ones((SIDE, SIDE), dtype)
    jax.block_until_ready((_product(made[0], made[1]), _product(made[2], made[2])))
    return made
