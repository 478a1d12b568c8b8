"""Who attends to whom, and attention itself: over everything, over a decode step's cache, or within reach.

Letters: B rows, T tokens, S slots, N query heads, K key and value heads, G = N / K query heads a key head serves,
H head width; of a cache: C blocks of L slots, F slots that A rows of each of P prompts share; of packed rows within
reach: F columns of the prefix, C chunks of Q tokens, W columns before a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from selfplay.models.kv_cache import LayerCache, by_slot, unshare

CHUNK = 64
"""Q: tokens that look at the same columns, and what the columns come in multiples of."""


class Reach(NamedTuple):
    """How far the tokens of packed rows see: the first columns of their row, and those shortly before themselves."""

    prefix: int
    """F, a multiple of CHUNK: a prompt that attempts further right continue lies in these columns."""
    before: int
    """W, a multiple of CHUNK: whatever else a token sees lies at most so many columns before it."""


@partial(jax.tree_util.register_dataclass, data_fields=["positions", "mask", "cos", "sin"], meta_fields=["reach"])
@dataclass(frozen=True)
class Place:
    """Where the tokens of a call stand and what they see: one for all sliding layers, one for all others."""

    positions: Int[Array, "B T"]
    mask: Bool[Array, "B T S"]
    cos: Float[Array, "B T H/2"]
    sin: Float[Array, "B T H/2"]
    reach: Reach | None = None
    """What `mask` is known to stay within; None = nothing is known."""

    def at(self, tokens: Int[Array, " B"]) -> Place:
        """Where one token of each row stands, and what it sees."""
        mask = jnp.broadcast_to(self.mask, (len(tokens), *self.mask.shape[1:]))
        positions, mask, cos, sin = (pick(x, tokens) for x in (self.positions, mask, self.cos, self.sin))
        return Place(positions, mask, cos, sin)


def pick(x: Shaped[Array, "B T ..."], tokens: Int[Array, " B"]) -> Shaped[Array, "B 1 ..."]:
    """One token of each row."""
    return jnp.take_along_axis(x, tokens.reshape(-1, *(1,) * (x.ndim - 1)), axis=1)


def soften(x: Float[Array, "..."], cap: float | None) -> Float[Array, "..."]:
    """c tanh(x / c): soft capping, Gemma 2, arXiv:2408.00118, section 2."""
    return x if cap is None else cap * jnp.tanh(x / cap)


LEAST = jnp.finfo(jnp.float32).min
"""The score of what is not seen."""

FAR = 88.0
"""exp(88) = 1.6e38, almost the largest number."""

FEW = 16
"""Numbers along an axis that are as well compared one by one."""


def highest(x: Float[Array, "... S"]) -> Float[Array, "... 1"]:
    """The largest along the last axis.

    A CPU's compiler compares along an axis number by number, and halves of it as vectors.
    """
    while jax.default_backend() == "cpu" and x.shape[-1] > FEW and x.shape[-1] % 2 == 0:
        half = x.shape[-1] // 2
        x = jnp.maximum(x[..., :half], x[..., half:])
    return x.max(-1, keepdims=True)


def masked(scores: Float[Array, "..."], seen: Bool[Array, "..."]) -> Float[Array, "..."]:
    """Scores where they are seen, and next to nothing elsewhere.

    A CPU's compiler works a mask out again wherever it is read, unless that takes an exponential: so there it is a sum,
    with what is made once for all layers, and a gradient does not read it.
    """
    if jax.default_backend() != "cpu":
        return jnp.where(seen, scores, LEAST)
    return scores - jnp.exp(jnp.where(seen, -jnp.inf, FAR))


wide = partial(jnp.einsum, preferred_element_type=jnp.float32)
"""A product in float32. The queries below have one axis, not one of heads and one of tokens: a gradient sums over both,
and would copy the scores into one first."""


def attend(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B K S H"],
    v: Float[Array, "B K S H"],
    mask: Bool[Array, "B T S"],
    *,
    scale: float,
    softcap: float | None = None,
    reach: Reach | None = None,
) -> Float[Array, "B T N H"]:
    """softmax(scale * q k^T) v over the slots where mask is True; scores and softmax are in float32.

    Args:
      reach: of packed rows (S = T), what the mask stays within; nothing further away is looked at. It changes what
        has to be computed, and the result by rounding.
    """
    if reach is not None:
        return _attend_within(q, k, v, mask, scale, softcap, reach)
    b, t, n, h = q.shape
    asked = q.reshape(b, t, k.shape[1], -1, h).transpose(0, 2, 3, 1, 4)  # [B K G T H]
    rows = asked.reshape(b, k.shape[1], -1, h)  # [B K GT H]
    scores = wide("bkrh,bksh->bkrs", rows, k).reshape(*asked.shape[:-1], -1) * scale  # [B K G T S]
    scores = masked(soften(scores, softcap), mask[:, None, None])
    exps = jnp.exp(scores - jax.lax.stop_gradient(highest(scores)))
    y = wide("bkrs,bksh->bkrh", exps.astype(v.dtype).reshape(*rows.shape[:-1], -1), v)
    y = (y.reshape(asked.shape) / exps.sum(-1, keepdims=True)).astype(v.dtype)
    return y.transpose(0, 3, 1, 2, 4).reshape(b, t, n, h)


def _attend_within(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B K T H"],
    v: Float[Array, "B K T H"],
    mask: Bool[Array, "B T T"],
    scale: float,
    softcap: float | None,
    reach: Reach,
) -> Float[Array, "B T N H"]:
    """`attend` of chunks of Q tokens: each scores the first F columns, and its own with the W before it.

    The two parts share one softmax: exp(score - m) over both, m the larger maximum, and what they sum to divides last.
    """
    b, t, n, h = q.shape
    heads, chunks, first = k.shape[1], t // CHUNK, reach.prefix
    asked = q.reshape(b, chunks, CHUNK, heads, -1, h).transpose(0, 3, 1, 4, 2, 5)  # [B K C G Q H]
    rows = asked.reshape(b, heads, chunks, -1, h)  # [B K C GQ H]
    every = rows.reshape(b, heads, -1, h)  # [B K CGQ H]
    near_mask, far_mask = _near_mask(mask, reach), mask[:, :, :first].reshape(b, 1, chunks, 1, CHUNK, first)

    def scored(found: Array, seen: Array) -> Float[Array, "B K C G Q S"]:
        return masked(soften(found.reshape(*asked.shape[:-1], -1) * scale, softcap), seen)

    near = scored(wide("bkcrh,bkcsh->bkcrs", rows, _windows(k, reach)), near_mask)
    far = scored(wide("bkrh,bksh->bkrs", every, k[:, :, :first]), far_mask)
    top = jnp.maximum(highest(near), highest(far)) if first else highest(near)
    near, far = (jnp.exp(s - jax.lax.stop_gradient(top)) for s in (near, far))
    total = near.sum(-1, keepdims=True) + far.sum(-1, keepdims=True)  # [B K C G Q 1]
    near, far = (s.astype(v.dtype) for s in (near, far))
    y = wide("bkcrs,bkcsh->bkcrh", near.reshape(*rows.shape[:-1], -1), _windows(v, reach))
    y += wide("bkrs,bksh->bkrh", far.reshape(*every.shape[:-1], -1), v[:, :, :first]).reshape(y.shape)
    y = (y.reshape(asked.shape) / total).astype(v.dtype)
    return y.transpose(0, 2, 4, 1, 3, 5).reshape(b, t, n, h)


def _windows(x: Float[Array, "B K T H"], reach: Reach) -> Float[Array, "B K C Q+W H"]:
    """Of every chunk, its own columns and the W before it; zeros before the row's first."""
    b, heads, t, h = x.shape
    back = reach.before // CHUNK
    chunked = x.reshape(b, heads, t // CHUNK, CHUNK, h)
    padded = jnp.pad(chunked, ((0, 0), (0, 0), (back, 0), (0, 0), (0, 0)))
    return jnp.concatenate([padded[:, :, i : i + t // CHUNK] for i in range(back + 1)], axis=3)


def _near_mask(mask: Bool[Array, "B T T"], reach: Reach) -> Bool[Array, "B 1 C 1 Q Q+W"]:
    """What each chunk sees of its window; the first F columns are seen as such, not here."""
    t = mask.shape[1]
    kept = jnp.pad(mask & (jnp.arange(t) >= reach.prefix), ((0, 0), (0, 0), (reach.before, 0)))
    wide = reach.before + CHUNK
    chunks = [kept[:, i : i + CHUNK, i : i + wide] for i in range(0, t, CHUNK)]
    return jnp.stack(chunks, axis=1)[:, None, :, None]


def attend_cached(
    q: Float[Array, "B T N H"],
    layer: LayerCache,
    mask: Bool[Array, "B T S"],
    *,
    scale: float,
    softcap: float | None = None,
) -> Float[Array, "B T N H"]:
    """`attend` to all slots of a cache."""
    if q.shape[1] == 1:
        return _attend_one(q, layer, mask, scale, softcap)
    keys, values, _ = unshare(layer)
    return attend(q, by_slot(keys), values, mask, scale=scale, softcap=softcap)


def _attend_one(
    q: Float[Array, "B 1 N H"], layer: LayerCache, mask: Bool[Array, "B 1 S"], scale: float, softcap: float | None
) -> Float[Array, "B 1 N H"]:
    """`attend_cached` of a decode step: a product with one row is a sum over the keys' width, in vectors along the
    slots. Slots that the rows of a prompt share are a product with those rows, of which there are several."""
    (b, _, n, h), (k, v, shared) = q.shape, layer
    grouped = q.reshape(b, k.shape[1], -1, 1, h, 1)  # [B K G 1 H 1]
    scores = jnp.sum(grouped * k[:, :, None], axis=-2, dtype=jnp.float32) * scale  # [B K G C L]
    scores = scores.reshape(*scores.shape[:3], -1)  # [B K G S-F]
    if shared is not None:
        together = q.reshape(len(shared[0]), -1, *grouped.shape[1:3], h)  # [P A K G H]
        before = jnp.einsum("pakgh,pkfh->pakgf", together, shared[0], preferred_element_type=jnp.float32) * scale
        scores = jnp.concatenate([before.reshape(*scores.shape[:3], -1), scores], axis=-1)
    scores = jnp.where(mask[:, None], soften(scores, softcap), LEAST)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)  # [B K G S]
    y = jnp.einsum("bkgs,bksh->bkgh", weights[..., layer.first :], v)
    if shared is not None:
        weights = weights[..., : layer.first].reshape(*together.shape[:-1], -1)
        y += jnp.einsum("pakgf,pkhf->pakgh", weights, shared[1]).reshape(y.shape)
    return y.reshape(b, 1, n, h)
