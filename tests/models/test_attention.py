"""What attention is made of: the largest score of a row, and what is not seen."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfplay.models.attention import highest, masked


@given(st.integers(1, 40), st.integers(0, 2**31 - 1))
@settings(max_examples=30, deadline=None)
def test_halves_find_the_largest(width, seed):
    x = np.random.default_rng(seed).normal(size=(2, width)).astype(np.float32)
    assert np.array_equal(highest(jnp.asarray(x)), x.max(-1, keepdims=True))


@pytest.mark.parametrize("backend", ["cpu", "tpu"])
def test_what_is_not_seen_weighs_nothing_and_passes_nothing_back(backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    scores, seen = jnp.array([3.0, -1e4, 5e4]), jnp.array([True, True, False])
    assert np.array_equal(masked(scores, seen)[:2], scores[:2])
    assert np.array_equal(jax.nn.softmax(masked(scores, seen)), [1, 0, 0])
    slope = jax.grad(lambda x: jnp.exp(masked(x, seen) - 3.0).sum())(scores)
    assert np.array_equal(slope, [1, 0, 0])
