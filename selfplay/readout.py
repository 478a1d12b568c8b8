"""From hidden states to log-probabilities, entropies and KL of chosen tokens, without holding all logits at once.

A vocabulary is 1,000 to 300,000 numbers a token, so logits of a whole slab outweigh everything else. Here the positions
that the policy chose come first, and a loop computes `chunk` of them at a time, as far as there are any; a second loop
computes them again for the gradient, whose sum it changes in place.

Letters: R rows of T positions, S devices that share the rows (`batch_parts`), M positions of a chunk on one device,
V vocabulary, D width. "..." is [R T] or [M].
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from selfplay import losses
from selfplay.models import ModelConfig, Params
from selfplay.models.attention import soften
from selfplay.models.decoder import output_matrix, scores
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


Matrices: TypeAlias = tuple[Float[Array, "*S V D"], Float[Array, "*S V D"] | None]
"""Output matrices of the policy and of the reference; S where every device has its own."""

TermsOf: TypeAlias = Callable[[Float[Array, "... V"], Float[Array, "... V"] | None, Positions], Terms]
"""Scores of the policy and of the reference at some positions -> what they say there."""


def read_out(
    config: ModelConfig,
    weights: tuple[Params, Params | None],
    at: Positions,
    *,
    chunk: int,
    mesh: Mesh,
    entropy_learns: bool = True,
) -> Terms:
    """Log-probability, entropy and KL of every chosen position of [R T] arrays.

    A gradient flows to the policy and to its hidden states, none to the reference.

    Args:
      weights: those of the policy, and of the reference.
      chunk: positions that a device computes at a time; 0 = all at once.
      entropy_learns: False = no gradient flows through the entropy.
    """
    policy = output_matrix(config, weights[0])
    reference = None if weights[1] is None else output_matrix(config, weights[1])
    terms = partial(_chosen_terms, config, entropy_learns=entropy_learns)
    parts = batch_parts(mesh)
    if not chunk or at.ids.size <= chunk * parts:
        return terms(*_scored((policy, reference), at), at)
    if parts > 1:  # each device multiplies with a copy of its own, so that gradients meet once, not once a chunk
        policy, reference = _own_copy(policy, mesh), None if reference is None else _own_copy(reference, mesh)
    return _in_chunks(terms, (policy, reference), at, chunk=chunk, parts=parts)


def _scored(matrices: Matrices, at: Positions) -> tuple[Float[Array, "... V"], Float[Array, "... V"] | None]:
    """Scores of the policy and of the reference."""
    policy, reference = matrices
    theirs = None
    if reference is not None and at.reference is not None:
        theirs = _product(reference, at.reference)
    return _product(policy, at.hidden), theirs


def _product(matrix: Float[Array, "*S V D"], hidden: Float[Array, "... D"]) -> Float[Array, "... V"]:
    found: Array = scores(matrix, hidden) if matrix.ndim == 2 else jax.vmap(scores)(matrix, hidden)
    return found


def _chosen_terms(
    config: ModelConfig,
    z: Float[Array, "... V"],
    reference: Float[Array, "... V"] | None,
    at: Positions,
    *,
    entropy_learns: bool,
) -> Terms:
    """What scores say at each position; 0 off the chosen ones."""

    def logits(z: Array) -> Array:
        z = soften(z, config.logit_softcap)
        return z if at.temperature is None else z / at.temperature[..., None]

    z, reference = logits(z), None if reference is None else logits(reference)
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
    entropy = losses.entropy(z if entropy_learns else lax.stop_gradient(z))
    kl = None
    if reference is not None:
        kl = losses.full(jax.nn.log_softmax(z), lax.stop_gradient(jax.nn.log_softmax(reference)))
    return Terms(losses.token_logprobs(z, ids), entropy, kl)


def _own_copy(matrix: Float[Array, "V D"], mesh: Mesh) -> Float[Array, "S V D"]:
    """A copy of the matrix on each device of the batch."""
    copies = jnp.broadcast_to(matrix, (batch_parts(mesh), *matrix.shape))
    place = NamedSharding(mesh, PartitionSpec(BATCH_AXES, "tensor", None))
    placed: Array = lax.with_sharding_constraint(copies, place)
    return placed


def _in_chunks(terms: TermsOf, matrices: Matrices, at: Positions, *, chunk: int, parts: int) -> Terms:
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

    chunks = jax.tree.map(cut, flat)
    if chunks.temperature is not None:  # padding divides by 1
        chunks = chunks._replace(temperature=jnp.where(chunks.chosen, chunks.temperature, 1.0))
    most = flat.chosen.sum(axis=1).max()
    found = _first_chunks(terms, matrices, chunks, -(-most // chunk))  # [chunks S M]
    back = jnp.argsort(order, axis=1)
    placed: Terms = jax.tree.map(
        lambda x: jnp.take_along_axis(x.swapaxes(0, 1).reshape(parts, -1), back, axis=1).reshape(shape), found
    )
    return placed


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _first_chunks(terms: TermsOf, matrices: Matrices, chunks: Positions, count: Int[Array, ""]) -> Terms:
    """`terms` of the first `count` of [chunks S M] positions, one chunk after the other; 0 in the others."""

    def of(part: Positions) -> Terms:
        return terms(*_scored(matrices, part), part)

    shapes = jax.eval_shape(of, _take(chunks, 0))
    nothing = jax.tree.map(lambda x: jnp.zeros((len(chunks.ids), *x.shape), x.dtype), shapes)
    found: Terms = lax.fori_loop(0, count, lambda i, found: _put(found, i, of(_take(chunks, i))), nothing)
    return found


Given: TypeAlias = tuple[Matrices, Positions, Int[Array, ""]]


def _forwards(terms: TermsOf, *given: *Given) -> tuple[Terms, Given]:
    found: Terms = _first_chunks(terms, *given)
    return found, given


def _backwards(terms: TermsOf, given: Given, slopes: Terms) -> tuple[Any, ...]:
    """Gradients of the policy's matrix, summed in float32 whatever its type, and of its hidden states."""
    (policy, reference), chunks, count = given

    def one(i: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        part = _take(chunks, i)
        z, theirs = _scored((policy, reference), part)
        (slope,) = jax.vjp(lambda z: terms(z, theirs, part), z)[1](_take(slopes, i))  # [S M V]
        matrix, hidden = jax.vjp(_product, policy, part.hidden)[1](slope)
        return sums[0] + matrix, _put(sums[1], i, hidden)

    nothing = jnp.zeros(policy.shape, jnp.float32), jnp.zeros_like(chunks.hidden)
    matrix, hidden = lax.fori_loop(0, count, one, nothing)
    others: dict[str, Any] = dict.fromkeys(Positions._fields)
    return (matrix.astype(policy.dtype), None), Positions(**others | {"hidden": hidden}), None


_first_chunks.defvjp(_forwards, _backwards)


def _take(arrays: Any, i: Array | int) -> Any:
    """Chunk i of arrays that begin with [chunks]."""
    return jax.tree.map(lambda x: x[i], arrays)


def _put(arrays: Any, i: Array, part: Any) -> Any:
    """The arrays with `part` as their chunk i."""
    return jax.tree.map(lambda x, y: x.at[i].set(y), arrays, part)
