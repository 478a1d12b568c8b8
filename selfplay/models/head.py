"""From hidden states to a score a token of the vocabulary. Letters: V vocabulary, D width."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

FEW_ROWS, LARGE_VOCAB = 16, 2**15
"""Where a CPU multiplies the other way round; measured in docs/performance.md."""


def scores_of(hidden: Float[Array, "... D"], matrix: Float[Array, "V D"]) -> Float[Array, "... V"]:
    """The products of hidden states with every token's row, float32.

    On a CPU, XLA packs a right-hand side anew in every call, and of a large vocabulary that takes as long as the
    product with few rows: there the matrix stands on the left, where it is read as it lies.
    """
    rows = hidden.size // hidden.shape[-1]
    if rows > FEW_ROWS or len(matrix) < LARGE_VOCAB or jax.default_backend() != "cpu":
        return jnp.einsum("...d,vd->...v", hidden, matrix, preferred_element_type=jnp.float32)
    flat = hidden.reshape(rows, -1)
    z = jnp.einsum("vd,rd->vr", matrix, flat, preferred_element_type=jnp.float32)
    z = jax.lax.optimization_barrier(z)  # or XLA would swap the two
    scores: Array = z.T.reshape(*hidden.shape[:-1], -1)
    return scores


def soften(x: Float[Array, "..."], cap: float | None) -> Float[Array, "..."]:
    """c tanh(x / c): soft capping, Gemma 2, arXiv:2408.00118, section 2."""
    return x if cap is None else cap * jnp.tanh(x / cap)
