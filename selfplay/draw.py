"""The draw of one token a row, and the noise that it is made from. Letters: R rows, T tokens, V vocabulary."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32


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
    One uniform a row and token is an exact draw (to the 2^-23 grain of u) at a fraction of Gumbel noise's cost.
    """
    scaled = logits / jnp.where(temperature > 0, temperature, 1.0)
    order = None
    if top_k or top_p < 1.0:
        scaled, order = jax.lax.top_k(scaled, min(top_k, logits.shape[-1]) or logits.shape[-1])  # descending
    if top_p < 1.0:
        before = jnp.cumsum(jax.nn.softmax(scaled, axis=-1), axis=-1) - jax.nn.softmax(scaled, axis=-1)
        scaled = jnp.where((before < top_p).at[:, 0].set(True), scaled, -jnp.inf)
    logp = jax.nn.log_softmax(scaled, axis=-1)
    p = jnp.exp(logp)
    cdf = jnp.cumsum(p, axis=-1)
    hit = (cdf > uniform[:, None] * cdf.max(-1, keepdims=True)) & (p > 0)
    index = jnp.where(temperature > 0, jnp.argmax(hit, axis=-1), jnp.argmax(scaled, axis=-1))
    chosen = jnp.take_along_axis(logp, index[:, None], axis=-1)[:, 0]
    if order is not None:
        index = jnp.take_along_axis(order, index[:, None], axis=-1)[:, 0]
    return index.astype(jnp.int32), jnp.where(temperature > 0, chosen, 0.0)


@partial(jax.jit, static_argnames="length")
def uniforms(keys: UInt32[Array, "R 2"], start: Int[Array, " R"], *, length: int) -> Float[Array, "R T"]:
    """The noise of every row and token: uniform in [0, 1), from (the row's key, the token's position) alone."""

    def one(key: jax.Array, position: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.fold_in(jax.random.wrap_key_data(key), position))

    positions = start[:, None] + jnp.arange(length)
    return jax.vmap(jax.vmap(one, in_axes=(None, 0)))(keys, positions)
