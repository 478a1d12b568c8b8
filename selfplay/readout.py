"""From hidden states to log-probabilities, entropies and KL of chosen tokens, without holding all logits at once.

A vocabulary is 1,000 to 300,000 numbers a token, so logits of a whole slab outweigh everything else. Here the positions
that the policy chose come first, and a scan computes `chunk` of them at a time, forwards and again backwards; chunks
with nothing chosen are skipped.

Letters: R rows of T positions, S devices that share the rows (`batch_parts`), M positions of a chunk on one device,
V vocabulary, D width. "..." is [R T] or [M].
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from selfplay import losses
from selfplay.models import ModelConfig, Params, logits
from selfplay.models.sharding import BATCH_AXES, batch_parts


class Positions(NamedTuple):
    """What is known at each position; all arrays of one leading shape."""

    hidden: Float[Array, "... D"]
    ids: Int[Array, "..."]
    """The token that the position predicts."""
    chosen: Bool[Array, "..."]
    """Whether the policy chose that token; nothing else is computed."""
    temperature: Float[Array, "..."] | None
    """Sampling temperature; None = 1."""
    reference: Float[Array, "... D"] | None = None
    """Hidden states of a reference policy, for the KL over the whole vocabulary."""
    kept: Int[Array, "... K"] | None = None
    """Candidates among which the token was drawn, -1 = none: where there are any, all terms are over them alone."""


class Terms(NamedTuple):
    """What the vocabulary says of each chosen token, nats; 0 off the chosen ones."""

    logprobs: Float[Array, "..."]
    entropy: Float[Array, "..."]
    kl: Float[Array, "..."] | None
    """KL(pi || reference) over the whole vocabulary, where there is a reference."""


Matrices: TypeAlias = tuple[Params, Params | None]
"""Weights of the policy, and of the reference."""


def read_out(
    config: ModelConfig, matrices: Matrices, at: Positions, *, chunk: int, mesh: Mesh, entropy_learns: bool = True
) -> Terms:
    """Log-probability, entropy and KL of every chosen position of [R T] arrays.

    Args:
      chunk: positions that a device computes at a time; 0 = all at once.
      entropy_learns: False = no gradient flows through the entropy.
    """
    terms = partial(token_terms, config, entropy_learns=entropy_learns)
    parts = batch_parts(mesh)
    if not chunk or at.ids.size <= chunk * parts:
        return terms(matrices, at)
    if parts > 1:  # each device multiplies with a copy of its own, so that gradients meet once, not once a chunk
        matrices, axes = _own_copies(config, matrices, mesh)
        terms = jax.vmap(terms, in_axes=(axes, 0))
        return _in_chunks(partial(terms, matrices), at, chunk=chunk, parts=parts)
    return _in_chunks(partial(_one_part, terms, matrices), at, chunk=chunk, parts=1)


def token_terms(config: ModelConfig, matrices: Matrices, at: Positions, *, entropy_learns: bool) -> Terms:
    """The same with all logits at once: [..., V]."""
    z = _tempered(logits(config, matrices[0], at.hidden), at.temperature)
    reference = None
    if matrices[1] is not None and at.reference is not None:
        reference = _tempered(logits(config, matrices[1], at.reference), at.temperature)
    every = _terms(z, at.ids, reference, entropy_learns=entropy_learns)
    if at.kept is not None:
        place = jnp.argmax(at.kept == at.ids[..., None], axis=-1)
        theirs = None if reference is None else losses.among(reference, at.kept)
        held = _terms(losses.among(z, at.kept), place, theirs, entropy_learns=entropy_learns)
        every = jax.tree.map(partial(jnp.where, at.kept[..., 0] >= 0), held, every)
    chosen: Terms = jax.tree.map(lambda x: jnp.where(at.chosen, x, 0.0), every)
    return chosen


def _terms(
    z: Float[Array, "... V"], ids: Int[Array, "..."], reference: Float[Array, "... V"] | None, *, entropy_learns: bool
) -> Terms:
    """What logits say of some ids among all that they are of."""
    entropy = losses.entropy(z if entropy_learns else jax.lax.stop_gradient(z))
    kl = None
    if reference is not None:
        kl = losses.full(jax.nn.log_softmax(z), jax.lax.stop_gradient(jax.nn.log_softmax(reference)))
    return Terms(losses.token_logprobs(z, ids), entropy, kl)


def _tempered(z: Float[Array, "... V"], temperature: Float[Array, "..."] | None) -> Float[Array, "... V"]:
    return z if temperature is None else z / temperature[..., None]


def _one_part(terms: Callable[[Matrices, Positions], Terms], matrices: Matrices, at: Positions) -> Terms:
    """[1 M] without a batched matrix product of one matrix."""
    alone = terms(matrices, jax.tree.map(lambda x: x[0], at))
    batched: Terms = jax.tree.map(lambda x: x[None], alone)
    return batched


def _own_copies(config: ModelConfig, matrices: Matrices, mesh: Mesh) -> tuple[Matrices, Matrices]:
    """The output matrices as [S V D], one on each device of the batch, and their axes for vmap."""
    name = "embed" if config.tie_embeddings else "head"
    place = NamedSharding(mesh, PartitionSpec(BATCH_AXES, "tensor", None))

    def own(params: Params | None) -> Params | None:
        if params is None:
            return None
        matrix = jnp.broadcast_to(params[name], (batch_parts(mesh), *params[name].shape))
        return params | {name: jax.lax.with_sharding_constraint(matrix, place)}

    axes: Params = {key: 0 if key == name else None for key in matrices[0]}
    return (own(matrices[0]), own(matrices[1])), (axes, None if matrices[1] is None else axes)  # type: ignore[return-value]


def _in_chunks(terms: Callable[[Positions], Terms], at: Positions, *, chunk: int, parts: int) -> Terms:
    """`terms` of [S M] positions at a time, chosen positions first, over all of [R T]."""
    shape = at.ids.shape
    flat = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[2:]), at)  # [S N ...]
    order = jnp.argsort(~flat.chosen, axis=1, stable=True)  # [S N]
    short = -order.shape[1] % chunk

    def cut(x: Array) -> Array:
        """[S N ...] -> [chunks S M ...], in the order above."""
        index = order.reshape(*order.shape, *(1,) * (x.ndim - 2))
        sorted_ = jnp.take_along_axis(x, index, axis=1)
        padded = jnp.pad(sorted_, ((0, 0), (0, short), *((0, 0),) * (x.ndim - 2)))
        return padded.reshape(parts, -1, chunk, *x.shape[2:]).swapaxes(0, 1)

    def one(part: Positions) -> Terms:
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(terms, part))
        found: Terms = jax.lax.cond(part.chosen.any(), terms, lambda _: zeros, part)
        return found

    chunks = jax.tree.map(cut, flat)
    if chunks.temperature is not None:  # padding divides by 1
        chunks = chunks._replace(temperature=jnp.where(chunks.chosen, chunks.temperature, 1.0))
    _, found = jax.lax.scan(lambda _, part: (None, jax.checkpoint(one)(part)), None, chunks)  # [chunks S M]
    back = jnp.argsort(order, axis=1)
    placed: Terms = jax.tree.map(
        lambda x: jnp.take_along_axis(x.swapaxes(0, 1).reshape(parts, -1), back, axis=1).reshape(shape), found
    )
    return placed
