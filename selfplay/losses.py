"""Losses, KL estimators and entropy as pure functions of log-probabilities.

Every function of a token returns one number a token; a loss is `sum(weights * term)`, where the weights hold the
denominator of the whole optimizer minibatch (packing.py). Nothing is divided here, so any split into micro-batches,
devices or padded rows adds up to the same number.
Letters: B rows, T tokens, V vocabulary. Log-probabilities are in nats. theta is differentiated; old and mu are not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from selfplay.config import Update

Tokens: TypeAlias = Float[Array, "B T"]
LossFn: TypeAlias = Callable[..., Tokens]


def reinforce(
    logprobs: Tokens, old_logprobs: Tokens, advantages: Tokens, *, clip_eps: float, clip_eps_high: float
) -> Tokens:
    """-A log pi_theta(x). On-policy only: one optimizer step a batch. Source: Williams 1992, doi:10.1007/BF00992696."""
    return -advantages * logprobs


def ppo(logprobs: Tokens, old_logprobs: Tokens, advantages: Tokens, *, clip_eps: float, clip_eps_high: float) -> Tokens:
    """-min(rho A, clip(rho, 1 - clip_eps, 1 + clip_eps_high) A), rho = pi_theta(x) / pi_old(x).

    Source: PPO, arXiv:1707.06347; a higher upper clip, DAPO, arXiv:2503.14476.
    """
    ratio = jnp.exp(logprobs - old_logprobs)
    clipped = jnp.clip(ratio, 1 - clip_eps, 1 + clip_eps_high)
    return -jnp.minimum(ratio * advantages, clipped * advantages)


def nll(logprobs: Tokens, old_logprobs: Tokens, advantages: Tokens, *, clip_eps: float, clip_eps_high: float) -> Tokens:
    """-log pi_theta(x) of whatever the filter kept; rewards act only through the filter.

    Source: expert iteration as in STaR, arXiv:2203.14465, and ReST-EM, arXiv:2312.06585.
    """
    return -logprobs


def logistic(
    logprobs: Tokens, old_logprobs: Tokens, advantages: Tokens, *, pair_ids: Int[Array, "B T"], beta: float
) -> Tokens:
    """log(1 + exp(-beta m)) at every token of a pair, whose margin m is over all tokens of both its sequences:

    m = log pi_theta(y)/pi_old(y) - log pi_theta(y')/pi_old(y') = sum_t A_t (log pi_theta(x_t) - log pi_old(x_t)),

    with A = +1 on the answer y to prefer and -1 on the other, y'. old is the opponent, the generation before.
    Both of a pair lie in one row. Source: SPIN, arXiv:2401.01335, with the logistic loss.
    """
    same = pair_ids[:, :, None] == pair_ids[:, None, :]  # [B T T]
    margin = jnp.einsum("btu,bu->bt", same.astype(logprobs.dtype), advantages * (logprobs - old_logprobs))
    return jax.nn.softplus(-beta * margin)


LOSSES: dict[str, LossFn] = {"reinforce": reinforce, "ppo": ppo, "nll": nll, "logistic": logistic}

PAIRWISE = ("logistic",)
"""Losses of pairs of sequences: they take pair ids and beta in place of clips."""


def clipped(
    logprobs: Tokens, old_logprobs: Tokens, advantages: Tokens, *, clip_eps: float, clip_eps_high: float
) -> tuple[Bool[Array, "B T"], Bool[Array, "B T"]]:
    """Where PPO's clip cuts the gradient: rho < 1 - clip_eps with A < 0, and rho > 1 + clip_eps_high with A > 0."""
    ratio = jnp.exp(logprobs - old_logprobs)
    return (ratio < 1 - clip_eps) & (advantages < 0), (ratio > 1 + clip_eps_high) & (advantages > 0)


def importance(old_logprobs: Tokens, behaviour_logprobs: Tokens, *, cap: float) -> Tokens:
    """stop_gradient(min(pi_old(x) / mu(x), cap)): corrects for a sampler that is not the old policy.

    Source: truncated importance sampling, Espeholt et al. 2018, arXiv:1802.01561.
    """
    return jax.lax.stop_gradient(jnp.minimum(jnp.exp(old_logprobs - behaviour_logprobs), cap))


# ---------------------------------------------------------------- KL(pi || ref), x drawn from pi


def k1(logprobs: Tokens, reference_logprobs: Tokens) -> Tokens:
    """log pi(x) - log ref(x): unbiased value. As a loss its expected gradient is 0; it belongs in the reward."""
    return logprobs - reference_logprobs


def k2(logprobs: Tokens, reference_logprobs: Tokens) -> Tokens:
    """(log pi(x) - log ref(x))^2 / 2: biased value, but as a loss its expected gradient is KL(pi || ref)'s own."""
    return 0.5 * (logprobs - reference_logprobs) ** 2


def k3(logprobs: Tokens, reference_logprobs: Tokens) -> Tokens:
    """ref(x)/pi(x) - 1 - log(ref(x)/pi(x)): unbiased, never negative; as a loss it follows KL(ref || pi) instead."""
    difference = reference_logprobs - logprobs
    return jnp.exp(difference) - 1 - difference


def full(logprobs: Float[Array, "B T V"], reference_logprobs: Float[Array, "B T V"]) -> Tokens:
    """sum_v pi(v) (log pi(v) - log ref(v)): exact in value and gradient; needs both whole distributions."""
    return jnp.sum(jnp.exp(logprobs) * (logprobs - reference_logprobs), axis=-1)


KL: dict[str, Callable[[Array, Array], Tokens]] = {"k1": k1, "k2": k2, "k3": k3, "full": full}
"""Source: Schulman 2020, "Approximating KL divergence"; gradients as losses, arXiv:2506.09477."""


# ---------------------------------------------------------------- distributions and values


def token_logprobs(logits: Float[Array, "B T V"], ids: Int[Array, "B T"]) -> Tokens:
    """log softmax(logits)[id] a token, without building the whole log-softmax."""
    chosen = jnp.take_along_axis(logits, ids[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def entropy(logits: Float[Array, "B T V"]) -> Tokens:
    """-sum_v p(v) log p(v), nats: logsumexp(z) - sum_v p(v) z(v)."""
    return jax.nn.logsumexp(logits, axis=-1) - jnp.sum(jax.nn.softmax(logits, axis=-1) * logits, axis=-1)


OUT = -1e30
"""The logit of what is no candidate: its probability is exactly 0, and 0 times it is 0."""


def among(logits: Float[Array, "B T V"], kept: Int[Array, "B T K"]) -> Float[Array, "B T K"]:
    """The logits of some candidates a token, -1 = none: softmax over them is softmax(logits) restricted to them."""
    found = jnp.take_along_axis(logits, jnp.maximum(kept, 0), axis=-1)
    return jnp.where(kept >= 0, found, OUT)


def squared_error(values: Tokens, returns: Tokens) -> Tokens:
    """(V - return)^2 / 2, what a critic minimises."""
    return 0.5 * (values - returns) ** 2


def regularised(update: Update) -> bool:
    """Do KL or entropy reach the loss, so that it needs every policy token, with advantage or without?"""
    return update.entropy_coef > 0 or (update.kl.place == "loss" and any(update.kl.coef.values()))
