"""The GEMM floor: a model's matrix products alone, at the shapes in question, as XLA computes them here.

No attention, no draw, no cache, and of elementwise work only what keeps the numbers finite.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from selfplay.models import ModelConfig, Params
from selfplay.models.project import project


@partial(jax.jit, static_argnums=0)
def forward(
    config: ModelConfig, params: Params, x: Float[Array, "M D"], heads: Float[Array, "L D"]
) -> tuple[Float[Array, "M D"], Float[Array, "L V"]]:
    """Every product of a forward pass over M tokens with logits at L positions; `x` is what one leads to the next."""
    return _body(config, params, x), _logits(params, heads)


@partial(jax.jit, static_argnums=(0, 3))
def decode(config: ModelConfig, params: Params, x: Float[Array, "B D"], steps: int) -> Float[Array, "B D"]:
    """The products of so many decode steps, one after the other."""

    def step(_: int, x: jax.Array) -> jax.Array:
        scores = _logits(params, x)
        return _body(config, params, x + scores.max(-1, keepdims=True).astype(x.dtype))

    last: jax.Array = jax.lax.fori_loop(0, steps, step, x)
    return last


@partial(jax.jit, static_argnums=0)
def gradient(config: ModelConfig, params: Params, x: Float[Array, "M D"], heads: Float[Array, "L D"]) -> Any:
    """The products of a forward and a backward pass: three for every one of the forward pass."""

    def total(params: Params, x: jax.Array, heads: jax.Array) -> Any:
        y, scores = forward(config, params, x, heads)
        return (y * x).sum() + (scores * scores).sum()  # cotangents that are no constants

    return jax.grad(total, argnums=(0, 1, 2))(params, x, heads)


def _body(config: ModelConfig, params: Params, x: Float[Array, "M D"]) -> Float[Array, "M D"]:
    for i in range(config.layers):
        attn, mlp = params["layers"][str(i)]["attn"], params["layers"][str(i)]["mlp"]
        q, k, v = (project(x, attn[name]["weight"]) for name in "qkv")
        q = q.at[:, : k.shape[1]].add(k + v)
        x = _unit(x + project(q, attn["o"]["weight"]))
        inner = project(x, mlp["gate"]["weight"]) + project(x, mlp["up"]["weight"])
        x = _unit(x + project(inner, mlp["down"]["weight"]))
    return x


def _logits(params: Params, x: Float[Array, "L D"]) -> Float[Array, "L V"]:
    return project(x, params["head"] if "head" in params else params["embed"], jnp.float32)


def _unit(x: Float[Array, "M D"]) -> Float[Array, "M D"]:
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)
