"""The optimizer: AdamW behind a clip of the gradient's norm, with warm-up and decay of the learning rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from selfplay.config import Update


def decay(update: Update, done: float) -> float:
    """Factor on the learning rate once a share `done` of the run is behind: 1 at first, decay_floor at its end."""
    if update.decay == "none":
        return 1.0
    return _falling(update.decay_floor, done)


def entropy_share(update: Update, done: float) -> float:
    """Factor on entropy_coef once a share `done` of the run is behind: 1 at first, entropy_floor at its end."""
    return _falling(update.entropy_floor, done)


def _falling(floor: float, done: float) -> float:
    return max(floor, 1.0 - (1.0 - floor) * done)


def learning_rate(update: Update, peak: float) -> Callable[[Any], Any]:
    """peak * min(1, (k + 1) / warmup_steps) at the optimizer's step k = 0, 1, ..."""
    return lambda count: peak * jnp.minimum(1.0, (count + 1) / max(update.warmup_steps, 1))


def make_optimizer(update: Update, peak: float) -> optax.GradientTransformation:
    """AdamW (arXiv:1711.05101), for gradients that are `clipped`."""
    return optax.adamw(
        learning_rate(update, peak),
        b1=update.beta1,
        b2=update.beta2,
        eps=update.adam_eps,
        weight_decay=update.weight_decay,
    )


def clipped(update: Update, gradient: Any) -> Any:
    """A gradient scaled down to a global norm of max_grad_norm."""
    clip = optax.clip_by_global_norm(update.max_grad_norm)
    return clip.update(gradient, clip.init(gradient))[0]


def moved(
    tx: optax.GradientTransformation, gradient: Any, moments: Any, params: Any, scale: jax.Array, finite: jax.Array
) -> Any:
    """Parameters after one optimizer step, or as they were where a gradient is not finite."""
    updates, _ = tx.update(gradient, moments, params)
    new = optax.apply_updates(params, jax.tree.map(lambda x: scale * x, updates))
    return _chosen(finite, new, params)


def followed(tx: optax.GradientTransformation, gradient: Any, moments: Any, params: Any, finite: jax.Array) -> Any:
    """The optimizer's state after the same step; it does not depend on the values of `params`."""
    return _chosen(finite, tx.update(gradient, moments, params)[1], moments)


def _chosen(condition: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def moment_shardings(tx: optax.GradientTransformation, shardings: Any, whole: Any) -> Any:
    """Where an optimizer's state lies: moments as their parameters do, all else `whole`."""
    scalars = jax.tree.map(lambda _: jax.ShapeDtypeStruct((), jnp.float32), shardings)
    state = jax.eval_shape(tx.init, scalars)
    return optax.tree.map_params(
        tx, lambda _, sharding: sharding, state, shardings, transform_non_params=lambda _: whole
    )
