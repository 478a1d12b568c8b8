"""The compiled programs of `LocalSampler`: read prompts, read on, draw a first token, decode a segment.

Weights are arguments, so that new ones compile nothing. Letters: R rows, T tokens, V vocabulary, D width.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from selfplay.caches import SEGMENT, Rows
from selfplay.draw import draw
from selfplay.models import decoder
from selfplay.models.config import ModelConfig
from selfplay.models.decoder import Params
from selfplay.models.kv_cache import Cache
from selfplay.models.sharding import by_rows, stay_by_rows
from selfplay.trie import Allowed, draw_allowed

prefill = partial(jax.jit, static_argnums=0, static_argnames="slots")(decoder.prefill)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=6)
def append(
    config: ModelConfig,
    mesh: Mesh | None,
    params: Params,
    ids: Int[Array, "R T"],
    count: Int[Array, " R"],
    start: Int[Array, " R"],
    cache: Cache,
) -> tuple[Float[Array, "R D"], Cache]:
    """Read `count` of these tokens into each row; the hidden state of the last of them."""

    def read(
        params: Params, ids: jax.Array, count: jax.Array, start: jax.Array, cache: Cache
    ) -> tuple[jax.Array, Cache]:
        hidden, cache = decoder.extend(config, params, ids, start, cache, jnp.maximum(count - 1, 0))
        return hidden[:, 0], cache

    return by_rows(read, mesh, 1)(params, ids, count, start, cache)


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def first(
    config: ModelConfig,
    mesh: Mesh | None,
    eos_ids: tuple[int, ...],
    top_k: int,
    top_p: float,
    params: Params,
    temperature: Float[Array, ""],
    hidden: Float[Array, "R D"],
    noise: Float[Array, "R T"],
    allowed: Allowed | None,
) -> tuple[Int[Array, " R"], Bool[Array, " R"], Allowed | None, Float[Array, " R"]]:
    """Each row's first token, whether the row goes on, what it may write next, and the token's log-probability."""

    def run(
        params: Params, temperature: jax.Array, hidden: jax.Array, noise: jax.Array, allowed: Allowed | None
    ) -> tuple[jax.Array, jax.Array, Allowed | None, jax.Array]:
        token, logprob, after = _drawn(config, params, hidden, noise[:, 0], temperature, allowed, top_k, top_p)
        return token, ~jnp.isin(token, jnp.asarray(eos_ids)), after, logprob

    return by_rows(run, mesh, 2)(params, temperature, hidden, noise, allowed)


def _drawn(
    config: ModelConfig,
    params: Params,
    hidden: Float[Array, "R D"],
    uniform: Float[Array, " R"],
    temperature: Float[Array, ""],
    allowed: Allowed | None,
    top_k: int,
    top_p: float,
) -> tuple[Int[Array, " R"], Float[Array, " R"], Allowed | None]:
    """The token that each row draws, its log-probability, and what the row may write after it."""
    scores = decoder.logits(config, params, hidden)
    if allowed is not None:
        return draw_allowed(scores, uniform, temperature, allowed)
    return *draw(scores, uniform, temperature, top_k=top_k, top_p=top_p), None


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4), donate_argnums=6)
def segment(
    config: ModelConfig,
    mesh: Mesh | None,
    eos_ids: tuple[int, ...],
    top_k: int,
    top_p: float,
    params: Params,
    rows: Rows,
    going: Bool[Array, " R"],
    drawn: Int[Array, " R"],
    steps: Int[Array, ""],
    limit: Int[Array, ""],
    temperature: Float[Array, ""],
) -> tuple[Rows, tuple[Int[Array, "R T"], Float[Array, "R T"]]]:
    """Up to `steps` tokens for every live row: read the last one, draw, note; ends early when all rows of a device have
    ended. What a row drew last is not in its cache: `extend` reads it first.

    Args:
      mesh: what rows are split over; None = nothing is.
      going: which rows go on, if they are alive.
      drawn: how many tokens each has.
    """

    def run(
        params: Params, steps: jax.Array, limit: jax.Array, temperature: jax.Array, rows: Rows, going: jax.Array,
        drawn: jax.Array,
    ) -> tuple[Rows, tuple[jax.Array, jax.Array]]:  # fmt: skip
        shape = (len(drawn), SEGMENT)

        def unfinished(carry: Any) -> Any:
            i, rows, *_ = carry
            return (i < steps) & rows.alive.any()

        def step(carry: Any) -> Any:
            i, rows, tokens, logprobs = carry
            alive = rows.alive
            hidden, cache = decoder.decode_step(config, params, rows.token, rows.position, rows.cache)
            hidden = stay_by_rows(hidden, mesh)
            uniform = jnp.take_along_axis(rows.uniforms, (drawn + i)[:, None], axis=1)[:, 0]
            token, logprob, allowed = _drawn(config, params, hidden, uniform, temperature, rows.allowed, top_k, top_p)
            after = alive & ~jnp.isin(token, jnp.asarray(eos_ids)) & (drawn + i + 1 < limit)
            rows = Rows(
                jnp.where(alive, token, rows.token), rows.position + alive, rows.uniforms, after, cache, allowed
            )
            return i + 1, rows, tokens.at[:, i].set(token), logprobs.at[:, i].set(logprob)

        rows = rows._replace(alive=rows.alive & going)
        first = (jnp.int32(0), rows, jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32))
        _, rows, tokens, logprobs = jax.lax.while_loop(unfinished, step, first)
        return rows, (tokens, logprobs)

    return by_rows(run, mesh, 4)(params, steps, limit, temperature, rows, going, drawn)
