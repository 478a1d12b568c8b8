"""Products with a matrix of many rows, as that of a vocabulary, a block of rows at a time, forwards and backwards.

A product packs a matrix before it multiplies, and its gradient is as large: by blocks neither takes room for all of it.

Letters: S devices that each have a matrix of their own, M positions, V rows of the matrix, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from selfplay.models.decoder import scores

BLOCK = 1 << 15
"""Rows of a block."""

Carried = TypeVar("Carried")


def product(matrix: Float[Array, "*S V D"], hidden: Float[Array, "S M D"]) -> Float[Array, "S M V"]:
    """Scores of hidden states, float32."""
    found: Array = scores(matrix, hidden) if matrix.ndim == 2 else jax.vmap(scores)(matrix, hidden)
    return found


def add_gradient(
    total: Float[Array, "*S V D"],
    matrix: Float[Array, "*S V D"],
    hidden: Float[Array, "S M D"],
    slope: Float[Array, "S M V"],
    *,
    block: int | None = None,
) -> tuple[Float[Array, "*S V D"], Float[Array, "S M D"]]:
    """`total` and the gradient of a matrix whose product with `hidden` has this slope; and the gradient of `hidden`.

    Sums over blocks are of float32, whatever is multiplied.
    """

    def add(first: Array | int, size: int, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        rows, of_hidden = sums
        pull = jax.vjp(product, _cut(matrix, first, size, -2), hidden)[1]
        more, also = pull(_cut(slope, first, size, -1))
        return lax.dynamic_update_slice_in_dim(rows, _cut(rows, first, size, -2) + more, first, -2), of_hidden + also

    rows = matrix.shape[-2]
    start = total, jnp.zeros(hidden.shape, jnp.float32)
    total, of_hidden = _by_blocks(rows, min(block or rows, rows), add, start)
    return total, of_hidden.astype(hidden.dtype)


def _cut(x: Array, first: Array | int, size: int, axis: int) -> Array:
    return lax.dynamic_slice_in_dim(x, first, size, axis)


def _by_blocks(
    rows: int, block: int, step: Callable[[Array | int, int, Carried], Carried], carried: Carried
) -> Carried:
    """step(first, size, carried) for every block, the last one smaller where rows are left. A loop, since a compiler
    that is free to choose makes the products of all blocks first."""
    whole, left = divmod(rows, block)
    carried = lax.fori_loop(0, whole, lambda i, carried: step(i * block, block, carried), carried)
    return step(whole * block, left, carried) if left else carried
