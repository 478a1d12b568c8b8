from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfplay.models import decode_step, extend, forward, logits, prefill
from selfplay.models.attention import soften
from selfplay.models.config import RopeScaling
from selfplay.models.decoder import RMSNorm, attend, embed
from selfplay.models.rope import rope, rotate
from tests.models.shapes import GEMMA3, LLAMA, QWEN2, QWEN3, random_params

hidden_of = jax.jit(forward, static_argnums=0)


def _rows(ids):
    ids = np.asarray(ids, np.int32)
    return ids, np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape), np.ones_like(ids)


def test_few_rows_of_a_large_vocabulary_score_as_many_do():
    """On a CPU they are multiplied the other way round."""
    config = replace(LLAMA, vocab_size=2**15)
    params = random_params(config)
    hidden = jax.random.normal(jax.random.key(1), (2, 20, config.hidden_size))
    many = jax.jit(lambda h: logits(config, params, h))(hidden)  # 40 rows
    few = jax.jit(lambda h: logits(config, params, h))(hidden[:, :3])
    np.testing.assert_allclose(few, many[:, :3], rtol=1e-5, atol=1e-6)

    def loss(h):  # as the update takes it: a checkpointed chunk at a time, by row, differentiated
        return (jax.vmap(jax.checkpoint(lambda row: logits(config, params, row)))(h)[..., :7] ** 2).sum()

    pull = jax.jit(jax.grad(loss))
    np.testing.assert_allclose(pull(hidden[:, :3]), pull(hidden)[:, :3], rtol=1e-4, atol=1e-5)


def test_rms_norm_by_hand():
    # rms of (3, 4) is sqrt(12.5)
    out = RMSNorm(2, 0.0)(jnp.array([3.0, 4.0]))
    np.testing.assert_allclose(out, np.array([3.0, 4.0]) / math.sqrt(12.5), rtol=1e-6)


def test_rope_by_hand():
    # H = 4, theta = 100: frequencies 1 and 100^(-1/2) = 0.1; pairs are (x0, x2) and (x1, x3).
    config = replace(LLAMA, head_dim=4, rope_theta=100.0)
    positions = jnp.array([[3]])
    out = rotate(jnp.array([1.0, 2.0, 5.0, 7.0]).reshape(1, 1, 1, 4), *rope(positions, config)).ravel()
    c, s, c1, s1 = math.cos(3), math.sin(3), math.cos(0.3), math.sin(0.3)
    np.testing.assert_allclose(out, [c - 5 * s, 2 * c1 - 7 * s1, 5 * c + s, 7 * c1 + 2 * s1], rtol=1e-5)


def test_llama3_rope_scaling_by_hand():
    # 64 original positions; a wavelength of 64 / turns. Fast (turns >= 4) kept, slow (turns <= 1) divided by 8.
    scaling = RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=64)
    config = replace(LLAMA, head_dim=4, rope_theta=1e6, rope_scaling=scaling)
    cos, sin = rope(jnp.array([[1]]), config)
    angles = np.arctan2(sin, cos).ravel()
    np.testing.assert_allclose(angles, [1.0, 1e-3 / 8], rtol=1e-5)  # 10.2 turns, 0.01 turns


def test_gqa_equals_attention_with_repeated_heads():
    keys = jax.random.split(jax.random.key(0), 3)
    q = jax.random.normal(keys[0], (2, 5, 4, 8))
    k, v = (jax.random.normal(key, (2, 2, 5, 8)) for key in keys[1:])
    mask = jnp.tril(jnp.ones((1, 5, 5), bool))
    repeated = attend(q, k.repeat(2, axis=1), v.repeat(2, axis=1), mask, scale=8**-0.5)
    np.testing.assert_allclose(attend(q, k, v, mask, scale=8**-0.5), repeated, atol=1e-6)


def test_attention_by_hand():
    # Scores q.k / sqrt(1) are 0 and log 3, so the weights are 1/4 and 3/4; the third slot is masked.
    q = jnp.ones((1, 1, 1, 1))
    k = jnp.array([0.0, math.log(3.0), 50.0]).reshape(1, 1, 3, 1)
    v = jnp.array([4.0, 8.0, 1000.0]).reshape(1, 1, 3, 1)
    out = attend(q, k, v, jnp.array([[[True, True, False]]]), scale=1.0)
    np.testing.assert_allclose(out.ravel(), [7.0], rtol=1e-6)


@pytest.mark.parametrize("config", [QWEN3, QWEN2, LLAMA], ids=lambda c: c.family)
def test_a_later_token_changes_nothing_before_it(config):
    params = random_params(config)
    ids, positions, segments = _rows([[5, 6, 7, 8, 9, 10]])
    other = ids.copy()
    other[0, 4] = 90
    a, b = (hidden_of(config, params, x, positions, segments) for x in (ids, other))
    np.testing.assert_allclose(a[:, :4], b[:, :4], atol=1e-6)
    assert np.abs(a[:, 4:] - b[:, 4:]).max() > 1e-2


def test_packed_segments_equal_separate_rows():
    params = random_params(QWEN3)
    first, second = np.array([5, 6, 7]), np.array([20, 21, 22, 23])
    ids = np.concatenate([first, second, [0]])[None]
    positions = np.array([[0, 1, 2, 0, 1, 2, 3, 0]])
    segments = np.array([[1, 1, 1, 2, 2, 2, 2, 0]])
    packed = hidden_of(QWEN3, params, ids, positions, segments)[0]
    np.testing.assert_allclose(packed[:3], hidden_of(QWEN3, params, *_rows([first]))[0], atol=1e-5)
    np.testing.assert_allclose(packed[3:7], hidden_of(QWEN3, params, *_rows([second]))[0], atol=1e-5)


@pytest.mark.parametrize("config", [QWEN3, GEMMA3], ids=lambda c: c.family)
def test_prefill_extend_and_decode_equal_a_fresh_forward(config):
    # Rows of unlike length, each with its own position throughout; Gemma's window of 4 is shorter than both.
    params = random_params(config)
    ids = np.asarray(jax.random.randint(jax.random.key(3), (2, 9), 4, 100), np.int32)
    fresh = hidden_of(config, params, *_rows(ids))
    lengths = np.array([5, 3])
    hidden, cache = jax.jit(partial(prefill, slots=12), static_argnums=0)(config, params, ids[:, :5], lengths)
    np.testing.assert_allclose(hidden, fresh[[0, 1], lengths - 1], atol=1e-5)
    two = np.stack([ids[0, 5:7], ids[1, 3:5]])
    padded, only = np.stack([two[0], [two[1, 0], 0]]), np.array([2, 1])  # of which the last real tokens alone count
    last, _ = jax.jit(extend, static_argnums=0)(config, params, padded, lengths, cache, only - 1)
    np.testing.assert_allclose(last[:, 0], fresh[[0, 1], lengths + only - 1], atol=1e-5)
    hidden_two, cache = jax.jit(extend, static_argnums=0)(config, params, two, lengths, cache)
    np.testing.assert_allclose(hidden_two, np.stack([fresh[0, 5:7], fresh[1, 3:5]]), atol=1e-5)
    token = np.array([ids[0, 7], ids[1, 5]])
    hidden, cache = jax.jit(decode_step, static_argnums=0)(config, params, token, lengths + 2, cache)
    np.testing.assert_allclose(hidden, np.stack([fresh[0, 7], fresh[1, 5]]), atol=1e-5)


def test_a_sliding_layer_forgets_what_lies_behind_its_window_and_a_packed_row_keeps_it():
    # One layer, window 4: the token at position 5 sees positions 2 to 5, so a change at 1 is not seen there.
    config = replace(LLAMA, layers=1, sliding_window=4, sliding_layers=(0,))
    params = random_params(config)
    ids, positions, segments = _rows([[5, 6, 7, 8, 9, 10]])
    other = np.array([[5, 90, 7, 8, 9, 10]])
    a, b = (hidden_of(config, params, x, positions, segments) for x in (ids, other))
    np.testing.assert_allclose(a[:, 5], b[:, 5], atol=1e-6)
    assert np.abs(a[:, 1:5] - b[:, 1:5]).max(-1).min() > 1e-3
    packed = [np.concatenate([x, x], 1) for x in (ids, positions, segments)]
    packed[2] = np.repeat([[1, 2]], 6, axis=1)
    np.testing.assert_allclose(hidden_of(config, params, *packed)[:, 6:], a, atol=1e-5)


def test_soft_caps_by_hand():
    # 2 tanh(3 / 2)
    np.testing.assert_allclose(soften(jnp.array([3.0, 0.0]), 2.0), [2 * math.tanh(1.5), 0.0], rtol=1e-6)


def test_linear_rope_scaling_by_hand():
    config = replace(LLAMA, head_dim=4, rope_theta=100.0, rope_scaling=RopeScaling(rope_type="linear", factor=4.0))
    cos, sin = rope(jnp.array([[2]]), config)
    np.testing.assert_allclose(np.arctan2(sin, cos).ravel(), [0.5, 0.05], rtol=1e-5)


def test_tied_logits_are_the_embedding_product():
    params = random_params(QWEN3)
    hidden = jax.random.normal(jax.random.key(0), (3, QWEN3.hidden_size))
    np.testing.assert_allclose(logits(QWEN3, params, hidden), hidden @ params["embed"].T, rtol=1e-5, atol=1e-5)
    assert "head" in random_params(QWEN2) and "head" not in params


def test_a_tied_matrix_has_one_gradient_of_both_its_uses():
    params, rows = random_params(QWEN3), _rows([[5, 9, 9, 7], [9, 3, 4, 4]])
    weights = np.random.default_rng(0).normal(size=(2, 4, QWEN3.vocab_size)).astype(np.float32)

    def plain(params):
        return jnp.sum(weights * logits(QWEN3, params, forward(QWEN3, params, *rows)))

    def once(params):
        embedded, params = embed(params, rows[0])
        return jnp.sum(weights * logits(QWEN3, params, forward(QWEN3, params, *rows, embedded=embedded)))

    expected, got = jax.jit(jax.grad(plain))(params), jax.jit(jax.grad(once))(params)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * np.abs(b).max())

    def sums(loss):
        made = [e for e in jax.make_jaxpr(jax.grad(loss))(params).eqns if e.primitive.name == "add_any"]
        return [e.outvars[0].aval.shape for e in made].count(params["embed"].shape)

    assert (sums(plain), sums(once)) == (1, 0)
