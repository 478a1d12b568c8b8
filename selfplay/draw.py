"""The draw of one token a row, and the noise that it is made from. Letters: R rows, T tokens, V vocabulary."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

LARGE_VOCAB = 2**15
"""From here on a draw goes by blocks; measured in docs/performance.md."""

BLOCK = 128
"""Tokens of a block: the tables of most models are padded to a multiple of it."""

FEW = 16
"""Numbers whose running sums are made by one product; measured in docs/performance.md."""


def draw(
    logits: Float[Array, "R V"],
    uniform: Float[Array, " R"],
    temperature: float | Float[Array, ""],
    *,
    top_k: int = 0,
    top_p: float = 1.0,
) -> tuple[Int[Array, " R"], Float[Array, " R"]]:
    """One token a row by inverse CDF, and its log-probability in nats under the distribution drawn from.

    token = the first i with sum_{j <= i} p_j > u, where p = softmax(logits / temperature) restricted to the top_k
    likeliest tokens and then to the fewest of them that hold top_p of the mass. Temperature 0 is the likeliest token.
    One uniform a row and token is an exact draw (to the 2^-23 grain of u) at a fraction of Gumbel noise's cost. Of a
    large vocabulary rounding may move the border between two tokens by a grain (`_draw_by_blocks`).
    """
    scaled = logits / jnp.where(temperature > 0, temperature, 1.0)
    order = None
    if top_k or top_p < 1.0:
        scaled, order = jax.lax.top_k(scaled, min(top_k, logits.shape[-1]) or logits.shape[-1])  # descending
    if top_p < 1.0:
        before = jnp.cumsum(jax.nn.softmax(scaled, axis=-1), axis=-1) - jax.nn.softmax(scaled, axis=-1)
        scaled = jnp.where((before < top_p).at[:, 0].set(True), scaled, -jnp.inf)
    if scaled.shape[-1] < LARGE_VOCAB:
        index, chosen = _draw_one(scaled, uniform, temperature)
    else:
        index, chosen = _draw_by_blocks(scaled, uniform, temperature)
    if order is not None:
        index = jnp.take_along_axis(order, index[:, None], axis=-1)[:, 0]
    return index.astype(jnp.int32), jnp.where(temperature > 0, chosen, 0.0)


def _draw_one(
    scaled: Float[Array, "R V"], uniform: Float[Array, " R"], temperature: float | Float[Array, ""]
) -> tuple[Int[Array, " R"], Float[Array, " R"]]:
    """The index drawn (at temperature 0 that of the largest), and its log-probability."""
    logp = jax.nn.log_softmax(scaled, axis=-1)
    p = jnp.exp(logp)
    cdf = running_sums(p)
    total = jnp.where(p > 0, cdf, 0.0).max(-1, keepdims=True)  # so that something is hit, however sums are rounded
    hit = (cdf > uniform[:, None] * total) & (p > 0)
    likeliest = scaled == scaled.max(-1, keepdims=True)
    index = _first(jnp.where(temperature > 0, hit, likeliest))
    return index, jnp.take_along_axis(logp, index[:, None], axis=-1)[:, 0]


def _first(hit: Bool[Array, "... V"]) -> Int[Array, "..."]:
    """The first place that is hit; the last where none is. A minimum goes in vectors on a CPU, `argmax` does not."""
    size = hit.shape[-1]
    return jnp.where(hit, jnp.arange(size), size - 1).min(-1)


def running_sums(x: Float[Array, "... V"]) -> Float[Array, "... V"]:
    """The sum of all numbers up to each: of FEW by a product with a triangle of ones, and those of the blocks alike.

    `jnp.cumsum` is no vector code on a CPU. Each sum is rounded in an order of its own, so that one may be smaller than
    that before it by a grain.
    """
    size = x.shape[-1]
    if size <= FEW:
        ones = jnp.triu(jnp.ones((size, size), x.dtype))
        return jnp.matmul(x, ones, precision=jax.lax.Precision.HIGHEST)
    missing = [(0, 0)] * (x.ndim - 1) + [(0, -size % FEW)]
    blocks = jnp.pad(x, missing).reshape(*x.shape[:-1], -1, FEW)
    within = running_sums(blocks)
    whole = within[..., -1]
    before = running_sums(whole) - whole
    return (within + before[..., None]).reshape(*x.shape[:-1], -1)[..., :size]


def _draw_by_blocks(
    scaled: Float[Array, "R V"], uniform: Float[Array, " R"], temperature: float | Float[Array, ""]
) -> tuple[Int[Array, " R"], Float[Array, " R"]]:
    """`_draw_one` of a large vocabulary: first a block of BLOCK tokens by the blocks' sums, then one of its tokens.

    What the uniform leaves within the block that it falls into, over the block's sum, is uniform again; so all tokens
    are read to be summed, and only the tokens of one block get a cumulative sum.
    """
    rows, size = scaled.shape
    blocks = jnp.pad(scaled, ((0, 0), (0, -size % BLOCK)), constant_values=-jnp.inf).reshape(rows, -1, BLOCK)
    highest = blocks.max(-1)  # [R V/BLOCK]
    top = highest.max(-1, keepdims=True)  # [R 1]
    sums = jnp.exp(blocks - top[:, :, None]).sum(-1)
    cdf = running_sums(sums)
    total = jnp.where(sums > 0, cdf, 0.0).max(-1, keepdims=True)
    aim = uniform[:, None] * total
    hit = (cdf > aim) & (sums > 0)
    block = _first(jnp.where(temperature > 0, hit, highest == top))[:, None]
    within = jnp.take_along_axis(blocks, block[:, :, None], axis=1)[:, 0]  # [R BLOCK]
    after, share = (jnp.take_along_axis(x, block, axis=1) for x in (cdf, sums))
    left = jnp.clip((aim - (after - share)) / share, 0.0, 1.0 - 2.0**-24)  # of the block, in [0, 1)
    place, _ = _draw_one(within, left[:, 0], temperature)
    score = jnp.take_along_axis(within, place[:, None], axis=1)
    return block[:, 0] * BLOCK + place, (score - top - jnp.log(total))[:, 0]


@partial(jax.jit, static_argnames="length")
def uniforms(keys: UInt32[Array, "R 2"], start: Int[Array, " R"], *, length: int) -> Float[Array, "R T"]:
    """The noise of every row and token: uniform in [0, 1), from (the row's key, the token's position) alone."""

    def one(key: jax.Array, position: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.fold_in(jax.random.wrap_key_data(key), position))

    positions = start[:, None] + jnp.arange(length)
    return jax.vmap(jax.vmap(one, in_axes=(None, 0)))(keys, positions)
