"""What the logits of some positions come to over the vocabulary, and what that passes back, a block of it at a time.

On a CPU a large vocabulary goes by blocks whose logits stay in its cache: a block is multiplied, summed up and
forgotten, and for the gradient multiplied again; its part of the matrix' gradient is added in place. Elsewhere it is
one block, as kernels there want large products.

Letters: M positions, V vocabulary or the block of it at hand, D width, K candidates. "..." is any shape of positions.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from selfplay.models.attention import soften
from selfplay.models.decoder import scores


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


class Summary(NamedTuple):
    """What the logits z of a position come to; pi = softmax(z) of the policy."""

    normaliser: Float[Array, "..."]
    """log sum_v exp z(v)."""
    mean: Float[Array, "..."]
    """sum_v pi(v) z(v), under the policy for the reference's z as well."""
    picked: Float[Array, "... 1+K"]
    """z of the token, and of its candidates."""


Matrices: TypeAlias = tuple[Float[Array, "V D"], Float[Array, "V D"] | None]
"""Output matrices of the policy and of the reference."""

Summaries: TypeAlias = tuple[Summary, Summary | None]
"""Of the policy, and of the reference where there is one."""


class Way(NamedTuple):
    """How scores are computed."""

    softcap: float | None
    block: int
    """Tokens of the vocabulary at a time; it divides the vocabulary."""


CACHED = 4096
"""Most tokens of a block: with 256 positions their logits take 4 MB."""


def block_of(vocabulary: int, mesh: Mesh) -> int:
    """Tokens of a block: the most from CACHED / 4 to CACHED that divide the vocabulary; all of it where none do, or
    where devices share it."""
    if mesh.shape["tensor"] > 1:
        return vocabulary
    return max((n for n in range(CACHED // 4, CACHED + 1) if vocabulary % n == 0), default=vocabulary)


def summaries(way: Way, matrices: Matrices, at: Positions) -> Summaries:
    """Summaries of [..., V] logits that are never held beyond a block of the vocabulary."""
    blocks = len(matrices[0]) // way.block

    def of(j: Array | int) -> _Sums:
        start = j * way.block
        return _sums(_logits(way, matrices[0], at.hidden, at, start), _theirs(way, matrices, at, start), at, start)

    sums = of(0)
    if blocks > 1:
        sums = lax.fori_loop(1, blocks, lambda j, sums: _merged(sums, of(j)), sums)
    return sums.summaries()


def _logits(way: Way, matrix: Array, hidden: Array, at: Positions, start: Array | int) -> Float[Array, "... V"]:
    """Logits of a block of the vocabulary, at the sampler's temperature."""
    return _softened(way, scores(_rows(way, matrix, start), hidden), at)


def _theirs(way: Way, matrices: Matrices, at: Positions, start: Array | int) -> Float[Array, "... V"] | None:
    """Logits of the reference, where there is one."""
    if matrices[1] is None or at.reference is None:
        return None
    return lax.stop_gradient(_logits(way, matrices[1], at.reference, at, start))


def _softened(way: Way, z: Float[Array, "... V"], at: Positions) -> Float[Array, "... V"]:
    z = soften(z, way.softcap)
    return z if at.temperature is None else z / at.temperature[..., None]


def _rows(way: Way, matrix: Float[Array, "V D"], start: Array | int) -> Float[Array, "V D"]:
    """The rows of a block."""
    return matrix if way.block == len(matrix) else lax.dynamic_slice_in_dim(matrix, start, way.block)


class _Sums(NamedTuple):
    """Sums over a part of the vocabulary, of the policy's logits z and of the reference's r."""

    top: Array
    """The largest z."""
    total: Array
    """sum exp(z - top)."""
    weighted: Array
    """sum exp(z - top) z."""
    picked: Array
    reference: tuple[Array, Array, Array, Array] | None
    """The largest r, sum exp(r - that), sum exp(z - top) r, and what is picked of r."""

    def summaries(self) -> Summaries:
        ours = Summary(self.top + jnp.log(self.total), self.weighted / self.total, self.picked)
        if self.reference is None:
            return ours, None
        top, total, weighted, picked = self.reference
        return ours, Summary(top + jnp.log(total), weighted / self.total, picked)


def _sums(z: Float[Array, "... V"], r: Float[Array, "... V"] | None, at: Positions, start: Array | int) -> _Sums:
    """Of a block that begins at token `start`."""
    top = lax.stop_gradient(z.max(-1))
    share = jnp.exp(z - top[..., None])
    reference = None
    if r is not None:
        highest = r.max(-1)
        summed = jnp.exp(r - highest[..., None]).sum(-1)
        reference = highest, summed, (share * r).sum(-1), _picked(r, at, start)
    return _Sums(top, share.sum(-1), (share * z).sum(-1), _picked(z, at, start), reference)


def _picked(z: Float[Array, "... V"], at: Positions, start: Array | int) -> Float[Array, "... 1+K"]:
    """Logits of the token and of its candidates, 0 of those that are in other blocks."""
    place = _places(at) - start
    found = jnp.take_along_axis(z, jnp.clip(place, 0, z.shape[-1] - 1), axis=-1)
    return jnp.where((place >= 0) & (place < z.shape[-1]), found, 0.0)


def _places(at: Positions) -> Int[Array, "... 1+K"]:
    """The token and its candidates."""
    token = at.ids[..., None]
    return token if at.kept is None else jnp.concatenate([token, jnp.maximum(at.kept, 0)], axis=-1)


def _merged(a: _Sums, b: _Sums) -> _Sums:
    """Sums over two parts of the vocabulary together."""
    top = jnp.maximum(a.top, b.top)
    x, y = jnp.exp(a.top - top), jnp.exp(b.top - top)
    reference = None
    if a.reference is not None and b.reference is not None:
        (a_top, a_total, a_weighted, a_picked), (b_top, b_total, b_weighted, b_picked) = a.reference, b.reference
        highest = jnp.maximum(a_top, b_top)
        summed = jnp.exp(a_top - highest) * a_total + jnp.exp(b_top - highest) * b_total
        reference = highest, summed, x * a_weighted + y * b_weighted, a_picked + b_picked
    total, weighted = x * a.total + y * b.total, x * a.weighted + y * b.weighted
    return _Sums(top, total, weighted, a.picked + b.picked, reference)


def add_slopes(
    way: Way, matrices: Matrices, at: Positions, found: Summaries, slopes: Summaries, total: Float[Array, "V D"]
) -> tuple[Float[Array, "V D"], Float[Array, "M D"]]:
    """What `summaries` passes on: the policy's matrix' gradient added to `total` in place, and the hidden states'.

    With z the logits, pi = softmax(z), mean = sum pi z: d normaliser / d z(v) = pi(v), d mean / d z(v) =
    pi(v) (1 + z(v) - mean), and d mean_r / d z(v) = pi(v) (r(v) - mean_r) for a reference's logits r.
    """
    (ours, theirs), (slope, their_slope) = found, slopes
    at_normaliser, at_mean = slope.normaliser[..., None], slope.mean[..., None]

    def add(j: Array | int, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        total, hidden = sums
        start = j * way.block
        matrix = _rows(way, matrices[0], start)
        z, soften_back = jax.vjp(lambda z: _softened(way, z, at), scores(matrix, at.hidden))
        pull = at_normaliser + at_mean + at_mean * (z - ours.mean[..., None])
        if (r := _theirs(way, matrices, at, start)) is not None and theirs is not None and their_slope is not None:
            pull += their_slope.mean[..., None] * (r - theirs.mean[..., None])
        each = jnp.exp(z - ours.normaliser[..., None]) * pull
        (each,) = soften_back(_at_picked(each, at, slope.picked, start))
        more = jnp.einsum("mv,md->vd", each, at.hidden, preferred_element_type=total.dtype)
        more += _rows(way, total, start)
        total = more if way.block == len(total) else lax.dynamic_update_slice_in_dim(total, more, start, axis=0)
        each = each.astype(matrix.dtype)
        return total, hidden + jnp.einsum("mv,vd->md", each, matrix, preferred_element_type=hidden.dtype)

    sums = total, jnp.zeros(at.hidden.shape, jnp.float32)
    blocks = len(total) // way.block
    total, hidden = add(0, sums) if blocks == 1 else lax.fori_loop(0, blocks, add, sums)
    return total, hidden.astype(at.hidden.dtype)


def _at_picked(
    each: Float[Array, "M V"], at: Positions, slopes: Float[Array, "M 1+K"], start: Array | int
) -> Float[Array, "M V"]:
    """`each` with the slopes of what was picked added where it was."""
    place = _places(at) - start
    each += jnp.where(jnp.arange(each.shape[-1]) == place[:, :1], slopes[:, :1], 0.0)
    if at.kept is None:
        return each
    rows, place = jnp.arange(len(each))[:, None], place[:, 1:]
    outside = (place < 0) | (place >= each.shape[-1])
    return each.at[rows, jnp.where(outside, each.shape[-1], place)].add(slopes[:, 1:], mode="drop")
