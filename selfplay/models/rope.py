"""Rotary positions (RoPE, arXiv:2104.09864). Letters: B rows, T tokens, N heads of width H."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from selfplay.models.config import ModelConfig, RopeScaling


def rope(positions: Int[Array, "B T"], config: ModelConfig) -> tuple[Float[Array, "B T H/2"], Float[Array, "B T H/2"]]:
    """Cosine and sine of position x theta^(-2i/H), i < H/2. Source: RoPE, arXiv:2104.09864."""
    half = jnp.arange(0, config.head_dim, 2, dtype=jnp.float32) / config.head_dim
    frequency = 1.0 / config.rope_theta**half
    if config.rope_scaling is not None:
        frequency = _stretch(frequency, config.rope_scaling)
    angle = positions[..., None].astype(jnp.float32) * frequency
    return jnp.cos(angle), jnp.sin(angle)


def _stretch(frequency: Float[Array, " h"], scaling: RopeScaling) -> Float[Array, " h"]:
    """Linear (arXiv:2306.15595): all slowed by `factor`. Llama 3.1: only long wavelengths, those between blended."""
    if scaling.rope_type == "linear":
        return frequency / scaling.factor
    turns = scaling.original_max_positions * frequency / (2 * jnp.pi)
    keep = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    keep = jnp.clip(keep, 0.0, 1.0)
    return keep * frequency + (1 - keep) * frequency / scaling.factor


def rotate(
    x: Float[Array, "B T N H"], cos: Float[Array, "B T H/2"], sin: Float[Array, "B T H/2"]
) -> Float[Array, "B T N H"]:
    """Rotate the pairs (x_i, x_{i + H/2}) of every head: the half-split convention of Hugging Face checkpoints.

    The other number of each pair comes by rolling, which a CPU does faster than putting two turned halves together.
    """
    cos, sin = (r[:, :, None, :].astype(x.dtype) for r in (cos, sin))
    cos, sin = jnp.concatenate([cos, cos], axis=-1), jnp.concatenate([-sin, sin], axis=-1)
    return x * cos + jnp.roll(x, x.shape[-1] // 2, axis=-1) * sin
