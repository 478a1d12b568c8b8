"""From hidden states to log-probabilities, entropies and KL of chosen tokens, without holding all logits at once.

A vocabulary is 1,000 to 300,000 numbers a token, so logits of a whole slab outweigh everything else. Here the positions
that the policy chose come first, and a loop computes `chunk` of them at a time, as far as there are any; a second loop
computes them again for the gradient, whose sum it changes in place. All that is kept of a position's logits is their
`Summary`, from which all terms are made.

Letters: R rows of T positions, S devices that share the rows (`batch_parts`), M positions of a chunk on one device,
V vocabulary, D width, K candidates. "..." is [R T].
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from selfplay import losses
from selfplay.models import ModelConfig, Params
from selfplay.models.decoder import output_matrix
from selfplay.models.sharding import BATCH_AXES, batch_parts
from selfplay.summaries import Matrices, Positions, Summaries, Summary, Way, add_slopes, block_of, summaries


class Terms(NamedTuple):
    """What the vocabulary says of each chosen token, nats; 0 off the chosen ones."""

    logprobs: Float[Array, "..."]
    entropy: Float[Array, "..."]
    kl: Float[Array, "..."] | None
    """KL(pi || reference) over the whole vocabulary, where there is a reference."""


def read_out(
    config: ModelConfig,
    weights: tuple[Params, Params | None],
    at: Positions,
    *,
    chunk: int,
    mesh: Mesh,
    by_blocks: bool = False,
    entropy_learns: bool = True,
) -> Terms:
    """Log-probability, entropy and KL of every chosen position of [R T] arrays.

    A gradient flows to the policy and to its hidden states, none to the reference.

    Args:
      weights: those of the policy, and of the reference.
      chunk: positions that a device computes at a time; 0 = all at once.
      by_blocks: a large vocabulary goes by blocks (`summaries.py`).
      entropy_learns: False = no gradient flows through the entropy.
    """
    policy = output_matrix(config, weights[0])
    reference = None if weights[1] is None or at.reference is None else output_matrix(config, weights[1])
    parts, vocabulary = batch_parts(mesh), len(policy)
    block = block_of(vocabulary, mesh) if by_blocks else vocabulary
    few = at.ids.size <= chunk * parts
    if not chunk or (few and block == vocabulary):
        found = summaries(Way(config.logit_softcap, vocabulary), (policy, reference), at)
        return _terms(*found, at, entropy_learns=entropy_learns)
    if parts > 1:  # each device multiplies with a copy of its own, so that gradients meet once, not once a chunk
        policy, reference = _own_copy(policy, mesh), None if reference is None else _own_copy(reference, mesh)
    way, chunk = Way(config.logit_softcap, block), min(chunk, at.ids.size // parts)
    found = _in_chunks(way, (policy, reference), at, chunk=chunk, parts=parts)
    return _terms(*found, at, entropy_learns=entropy_learns)


def _terms(ours: Summary, theirs: Summary | None, at: Positions, *, entropy_learns: bool) -> Terms:
    """What summaries of positions say of their tokens; 0 off the chosen ones."""
    entropy = ours.normaliser - ours.mean
    kl = None if theirs is None else theirs.normaliser - theirs.mean - entropy
    entropy = entropy if entropy_learns else lax.stop_gradient(entropy)
    every = Terms(ours.picked[..., 0] - ours.normaliser, entropy, kl)
    if at.kept is not None:
        reference = None if theirs is None else theirs.picked[..., 1:]
        held = _among(at.kept, at.ids, ours.picked[..., 1:], reference, entropy_learns=entropy_learns)
        every = jax.tree.map(partial(jnp.where, at.kept[..., 0] >= 0), held, every)
    chosen: Terms = jax.tree.map(lambda x: jnp.where(at.chosen, x, 0.0), every)
    return chosen


def _among(
    kept: Int[Array, "... K"],
    ids: Int[Array, "..."],
    z: Float[Array, "... K"],
    reference: Float[Array, "... K"] | None,
    *,
    entropy_learns: bool,
) -> Terms:
    """The terms over candidates alone, from their logits; -1 = no candidate."""
    z, kl = jnp.where(kept >= 0, z, losses.OUT), None
    if reference is not None:
        other = jax.nn.log_softmax(jnp.where(kept >= 0, reference, losses.OUT))
        kl = losses.full(jax.nn.log_softmax(z), lax.stop_gradient(other))
    place = jnp.argmax(kept == ids[..., None], axis=-1)
    entropy = losses.entropy(z if entropy_learns else lax.stop_gradient(z))
    return Terms(losses.token_logprobs(z, place), entropy, kl)


def _own_copy(matrix: Float[Array, "V D"], mesh: Mesh) -> Float[Array, "S V D"]:
    """A copy of the matrix on each device of the batch."""
    copies = jnp.broadcast_to(matrix, (batch_parts(mesh), *matrix.shape))
    place = NamedSharding(mesh, PartitionSpec(BATCH_AXES, "tensor", None))
    placed: Array = lax.with_sharding_constraint(copies, place)
    return placed


def _in_chunks(way: Way, matrices: Matrices, at: Positions, *, chunk: int, parts: int) -> Summaries:
    """Summaries of [S M] positions at a time, chosen positions first, over all of [R T]."""
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

    def back(x: Array) -> Array:
        """[chunks S M ...] -> [R T ...], as they were."""
        joined = x.swapaxes(0, 1).reshape(parts, -1, *x.shape[3:])
        index = home.reshape(*home.shape, *(1,) * (joined.ndim - 2))
        return jnp.take_along_axis(joined, index, axis=1).reshape(*shape, *x.shape[3:])

    chunks, home = jax.tree.map(cut, flat), jnp.argsort(order, axis=1)
    if chunks.temperature is not None:  # padding divides by 1
        chunks = chunks._replace(temperature=jnp.where(chunks.chosen, chunks.temperature, 1.0))
    most = flat.chosen.sum(axis=1).max()
    if parts == 1:
        chunks = jax.tree.map(lambda x: x[:, 0], chunks)
    found = _first_chunks(way, matrices, chunks, -(-most // chunk))
    if parts == 1:
        found = jax.tree.map(lambda x: x[:, None], found)
    placed: Summaries = jax.tree.map(back, found)
    return placed


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _first_chunks(way: Way, matrices: Matrices, chunks: Positions, count: Int[Array, ""]) -> Summaries:
    """Summaries of the first `count` of [chunks M] positions, one chunk after the other; 0 in the others.

    Where every device has a matrix and positions of its own, they are [S V D] and [chunks S M].
    """
    of = _each(matrices, partial(summaries, way))

    def one(i: Array, found: Summaries) -> Summaries:
        with_one: Summaries = _put(found, i, of(matrices, _take(chunks, i)))
        return with_one

    shapes = jax.eval_shape(of, matrices, _take(chunks, 0))
    nothing = jax.tree.map(lambda x: jnp.zeros((len(chunks.ids), *x.shape), x.dtype), shapes)
    found: Summaries = lax.fori_loop(0, count, one, nothing)
    return found


def _each(matrices: Matrices, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of one device's arrays, for those of all where each has its own."""
    return jax.vmap(function) if matrices[0].ndim == 3 else function


Given: TypeAlias = tuple[Matrices, Positions, Int[Array, ""], Summaries]


def _forwards(way: Way, matrices: Matrices, chunks: Positions, count: Int[Array, ""]) -> tuple[Summaries, Given]:
    found: Summaries = _first_chunks(way, matrices, chunks, count)
    return found, (matrices, chunks, count, found)


def _backwards(way: Way, given: Given, slopes: Summaries) -> tuple[Any, ...]:
    """Gradients of the policy's matrix, summed in float32 whatever its type, and of its hidden states."""
    matrices, chunks, count, found = given
    of = _each(matrices, partial(add_slopes, way))

    def one(i: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        matrix, hidden = of(matrices, _take(chunks, i), _take(found, i), _take(slopes, i), sums[0])
        return matrix, _put(sums[1], i, hidden)

    nothing = jnp.zeros(matrices[0].shape, jnp.float32), jnp.zeros_like(chunks.hidden)
    matrix, hidden = lax.fori_loop(0, count, one, nothing)
    others: dict[str, Any] = dict.fromkeys(Positions._fields)
    return (matrix.astype(matrices[0].dtype), None), Positions(**others | {"hidden": hidden}), None


_first_chunks.defvjp(_forwards, _backwards)


def _take(arrays: Any, i: Array | int) -> Any:
    """Chunk i of arrays that begin with [chunks]."""
    return jax.tree.map(lambda x: x[i], arrays)


def _put(arrays: Any, i: Array, part: Any) -> Any:
    """The arrays with `part` as their chunk i."""
    return jax.tree.map(lambda x, y: x.at[i].set(y), arrays, part)
