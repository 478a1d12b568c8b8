"""Products of activations with a weight matrix. Letters: R rows, I inputs, O outputs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

FEW_ROWS = 64
"""Up to so many rows a CPU multiplies the other way round; measured in docs/performance.md."""


def project(x: Float[Array, "R I"], weight: Float[Array, "O I"], dtype: Any = None) -> Float[Array, "R O"]:
    """x weight^T, in the inputs' type or `dtype`.

    On a CPU, XLA packs a right-hand side anew in every call, and with few rows packing a matrix takes as long as the
    product: there the matrix stands on the left, where it is read as it lies.
    """
    if len(x) > FEW_ROWS or jax.default_backend() != "cpu":
        return jnp.einsum("ri,oi->ro", x, weight, preferred_element_type=dtype)
    turned = jnp.einsum("oi,ri->or", weight, x, preferred_element_type=dtype)
    result: Array = jax.lax.optimization_barrier(turned).T  # without the barrier XLA would swap the two
    return result
