"""The count of compiled programs."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from selfplay.compilations import Compilations


def test_a_program_counts_once_and_a_new_shape_again() -> None:
    double = jax.jit(lambda x: x + x)
    arrays = [jnp.zeros(n) for n in (3, 3, 5)]
    counter = Compilations()
    found = []
    for array in arrays:
        double(array)
        found.append(counter.count())
    assert found == [1, 1, 2] and Compilations().count() == 0
