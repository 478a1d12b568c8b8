"""One decoder for the Llama, Qwen 2, Qwen 3 and Gemma families, and the functions that everything else calls.

Letters: B rows, T tokens, P prompt tokens, S cache slots, V vocabulary, D width, N query heads,
K key and value heads, G = N / K query heads a key head serves, H head width.

Parameters are a plain nested dict of arrays and always an argument, so that one compiled program serves every
version of the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, TypeAlias, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from selfplay.config import Lora
from selfplay.models.attention import Place, Reach, attend, attend_cached, pick, soften
from selfplay.models.config import ModelConfig
from selfplay.models.kv_cache import Cache, LayerCache, cached, write
from selfplay.models.project import project
from selfplay.models.rope import rope, rotate

Params: TypeAlias = dict[str, Any]
"""Nested dict of arrays; names as in `sharding.PARAMETER_SPECS`."""

KeyValues: TypeAlias = tuple[Float[Array, "B K T H"], Float[Array, "B K T H"]] | LayerCache
"""A call's own keys and values, or a layer's cache with them in it."""

Wrap: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]
"""What a training pass puts around every block: rematerialisation, and where its activations lie."""


class RMSNorm(nnx.Module):
    """x / rms(x) * weight over the last axis, computed in float32. Source: arXiv:1910.07467.

    plus_one: times 1 + weight, still in float32 (Gemma, arXiv:2403.08295).
    """

    def __init__(self, width: int, eps: float, *, plus_one: bool = False) -> None:
        self.weight = nnx.Param(jnp.zeros(width) if plus_one else jnp.ones(width))
        self.eps, self.plus_one = eps, plus_one

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        wide = x.astype(jnp.float32)
        normed = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        if self.plus_one:
            return (normed * (1.0 + self.weight[...].astype(jnp.float32))).astype(x.dtype)
        return self.weight[...] * normed.astype(x.dtype)


class Linear(nnx.Module):
    """x @ weight^T (+ bias); weight is [out, in]. With an adapter (see lora.py): + (alpha / rank) (x @ A) @ B."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool, std: float, rngs: nnx.Rngs) -> None:
        self.weight = nnx.Param(std * jax.random.normal(rngs.params(), (inputs, outputs)).T)
        self.bias = nnx.Param(jnp.zeros(outputs)) if bias else None
        self.lora: Lora | None = None

    def adapt(self, lora: Lora) -> None:
        """Put an adapter beside the matrix."""
        outputs, inputs = self.weight.shape
        self.lora = lora
        self.lora_a = nnx.Param(jnp.zeros((inputs, lora.rank)))
        self.lora_b = nnx.Param(jnp.zeros((lora.rank, outputs)))

    def __call__(self, x: Float[Array, "... I"]) -> Float[Array, "... O"]:
        flat = x.reshape(-1, x.shape[-1])  # one plain matrix product each way: its gradient is 3 times faster on CPU
        y = project(flat, self.weight[...])
        if self.lora is not None:
            y = y + self.lora.factor * ((flat @ self.lora_a[...]) @ self.lora_b[...])
        y = y.reshape(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias[...]


class Attention(nnx.Module):
    """Causal attention with shared key and value heads (GQA, arXiv:2305.13245) and rotary positions."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        width, wide = config.hidden_size, config.heads * config.head_dim
        narrow, bias = config.kv_heads * config.head_dim, config.qkv_bias
        self.config = config
        self.q = Linear(width, wide, bias=bias, std=INIT_STD, rngs=rngs)
        self.k = Linear(width, narrow, bias=bias, std=INIT_STD, rngs=rngs)
        self.v = Linear(width, narrow, bias=bias, std=INIT_STD, rngs=rngs)
        self.o = Linear(wide, width, bias=config.output_bias, std=_residual_std(config), rngs=rngs)
        self.q_norm = _norm(config, config.head_dim) if config.qk_norm else None
        self.k_norm = _norm(config, config.head_dim) if config.qk_norm else None

    def __call__(
        self,
        x: Float[Array, "B T D"],
        place: Place,
        cache: LayerCache | None = None,
        of: Int[Array, " B"] | None = None,
    ) -> tuple[Float[Array, "B T D"], KeyValues]:
        """Attend to this call's own tokens, or, given a cache, write them into it and attend to all of it.

        Args:
          of: the token of each row that attends, T = 1 of what comes back; None = all do.
        """
        c = self.config
        asking, here = (x, place) if of is None else (pick(x, of), place.at(of))
        q = self.q(asking).reshape(*asking.shape[:2], c.heads, c.head_dim)  # [B T N H]
        k = self.k(x).reshape(*x.shape[:2], c.kv_heads, c.head_dim)  # [B T K H]
        v = self.v(x).reshape(*x.shape[:2], c.kv_heads, c.head_dim)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, here.cos, here.sin), rotate(k, place.cos, place.sin)
        k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)  # [B K T H]
        scale = (c.query_scale or c.head_dim) ** -0.5
        written: KeyValues
        if cache is None:
            written = k, v
            y = attend(q, k, v, here.mask, scale=scale, softcap=c.attn_softcap, reach=here.reach)
        else:
            written = write(cache, k, v, place.positions)
            y = attend_cached(q, written, here.mask, scale=scale, softcap=c.attn_softcap)
        return self.o(y.reshape(*q.shape[:2], -1)), written


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
}


class MLP(nnx.Module):
    """down(activation(gate(x)) * up(x)): SwiGLU or GeGLU, arXiv:2002.05202."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        width, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.activation = config.activation
        self.gate = Linear(width, inner, bias=bias, std=INIT_STD, rngs=rngs)
        self.up = Linear(width, inner, bias=bias, std=INIT_STD, rngs=rngs)
        self.down = Linear(inner, width, bias=bias, std=_residual_std(config), rngs=rngs)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return self.down(ACTIVATIONS[self.activation](self.gate(x)) * self.up(x))


class Block(nnx.Module):
    """Attention, then the MLP, each on a normed copy of the residual stream; Gemma norms what they return as well."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        self.attn_norm = _norm(config)
        self.attn = Attention(config, rngs)
        self.attn_post_norm = _norm(config) if config.post_norms else None
        self.mlp_norm = _norm(config)
        self.mlp = MLP(config, rngs)
        self.mlp_post_norm = _norm(config) if config.post_norms else None

    def __call__(
        self,
        x: Float[Array, "B T D"],
        place: Place,
        cache: LayerCache | None = None,
        of: Int[Array, " B"] | None = None,
    ) -> tuple[Float[Array, "B T D"], KeyValues]:
        """The stream after the block, of all tokens or of one token `of` each row alone, and keys and values of all."""
        attended, written = self.attn(self.attn_norm(x), place, cache, of)
        x = x if of is None else pick(x, of)
        x = x + (attended if self.attn_post_norm is None else self.attn_post_norm(attended))
        inner = self.mlp(self.mlp_norm(x))
        return x + (inner if self.mlp_post_norm is None else self.mlp_post_norm(inner)), written


class Decoder(nnx.Module):
    """Embedding, blocks, final norm, and the output matrix (the embedding itself when tied)."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        shape = (config.vocab_size, config.hidden_size)
        self.config = config
        self.embed = nnx.Param(INIT_STD * jax.random.normal(rngs.params(), shape))
        self.layers = nnx.Dict({str(i): Block(config, rngs) for i in range(config.layers)})
        self.norm = _norm(config)
        self.head = None if config.tie_embeddings else nnx.Param(INIT_STD * jax.random.normal(rngs.params(), shape))
        if config.lora is not None:
            for block in self.layers.values():
                for name in config.lora.targets:
                    getattr(block.attn if name in ("q", "k", "v", "o") else block.mlp, name).adapt(config.lora)

    def __call__(
        self,
        ids: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        mask: Bool[Array, "B T S"],
        cache: Cache | None = None,
        wrap: Wrap = lambda block: block,
        reach: Reach | None = None,
        embedded: Float[Array, "B T D"] | None = None,
        of: Int[Array, " B"] | None = None,
    ) -> tuple[Float[Array, "B T D"], list[KeyValues]]:
        """Hidden states of all tokens, or of one token `of` each row alone (T = 1), and keys and values of all."""
        c = self.config
        slots = positions[:, None] if cache is None else jnp.arange(mask.shape[-1])  # the position in each slot
        everything = Place(positions, mask, *rope(positions, c), reach)
        nearby = _nearby(everything, slots, c) if c.sliding_layers else everything
        x = jnp.take(self.embed[...], ids, axis=0) if embedded is None else embedded  # [B T D]
        if c.scale_embeddings:
            x = x * jnp.asarray(c.hidden_size**0.5, x.dtype)
        written: list[KeyValues] = []
        for i in range(c.layers):  # by number: the dict itself is sorted as text, "10" before "2"
            place = nearby if i in c.sliding_layers else everything
            wanted = of if i == c.layers - 1 else None  # below it, every token is read by those above
            x, layer = wrap(self.layers[str(i)])(x, place, None if cache is None else cache[i], wanted)
            written.append(layer)
        return self.norm(x), written


INIT_STD = 0.02


def _residual_std(config: ModelConfig) -> float:
    """Projections onto the residual stream start smaller, as 2 x layers of them add up. Source: GPT-2."""
    return float(INIT_STD / (2 * config.layers) ** 0.5)


def _norm(config: ModelConfig, width: int = 0) -> RMSNorm:
    return RMSNorm(width or config.hidden_size, config.rms_eps, plus_one=config.norm_plus_one)


def _nearby(place: Place, slots: Int[Array, "..."], config: ModelConfig) -> Place:
    """What a sliding layer sees of a place: the last sliding_window positions, the token's own included."""
    mask = place.mask & (place.positions[:, :, None] - slots < config.sliding_window)  # [B T S]
    if config.local_rope_theta is None:
        return replace(place, mask=mask)
    local = replace(config, rope_theta=config.local_rope_theta, rope_scaling=None)
    return Place(place.positions, mask, *rope(place.positions, local), place.reach)


@lru_cache
def graph(config: ModelConfig) -> Any:
    """The decoder's structure without its arrays: `nnx.merge(graph(config), params)` is the module."""
    return nnx.graphdef(nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0))))


@lru_cache
def abstract_params(config: ModelConfig) -> Params:
    """Shapes of all parameters (float32), in the tree that `init_params` fills."""
    return dict(nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0))))))


def init_params(config: ModelConfig, key: jax.Array, dtype: Any = jnp.float32) -> Params:
    """Fresh parameters: normal with std 0.02 (smaller onto the residual stream), norms 1, biases 0."""
    pure = nnx.to_pure_dict(nnx.state(Decoder(config, nnx.Rngs(params=key))))
    return dict(jax.tree.map(lambda x: x.astype(dtype), pure))


def forward(
    config: ModelConfig,
    params: Params,
    ids: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    segment_ids: Int[Array, "B T"],
    prefix_ids: Int[Array, "B T"] | None = None,
    *,
    wrap: Wrap = lambda block: block,
    reach: Reach | None = None,
    embedded: Float[Array, "B T D"] | None = None,
) -> Float[Array, "B T D"]:
    """Final hidden states of packed rows: a token sees itself and earlier tokens of its own segment.

    Segment 0 is padding: it sees only padding, and what comes out there means nothing.

    Args:
      prefix_ids: the segment that a token's own one continues, which it sees too; its own where there is none.
      reach: how far any token of these rows sees (`layout.reach_of`); None = it may be anywhere.
      embedded: rows of the embedding, as `embed` takes them; None = taken here.
    """
    length = ids.shape[1]
    seen = segment_ids[:, :, None] == segment_ids[:, None, :]  # [B T T]
    if prefix_ids is not None:
        seen |= prefix_ids[:, :, None] == segment_ids[:, None, :]
    mask = jnp.tril(jnp.ones((length, length), bool)) & seen
    return _decoder(config, params)(ids, positions, mask, wrap=wrap, reach=reach, embedded=embedded)[0]


def embed(params: Params, ids: Int[Array, "B T"]) -> tuple[Float[Array, "B T D"], Params]:
    """Rows of the embedding, and the parameters for whatever reads them next.

    Where the output matrix is the same array and both learn, the gradient of the rows is added into that of the output
    matrix in place; taken apart, they are two arrays of its size and a sum of them.
    """
    rows, matrix = _rows_of(params["embed"], ids)
    return rows, params | {"embed": matrix}


@jax.custom_vjp
def _rows_of(matrix: Float[Array, "V D"], ids: Int[Array, "B T"]) -> tuple[Float[Array, "B T D"], Float[Array, "V D"]]:
    """Rows of a matrix, and the matrix."""
    return jnp.take(matrix, ids, axis=0), matrix


_rows_of.defvjp(
    lambda matrix, ids: (_rows_of(matrix, ids), ids),
    lambda ids, slopes: (slopes[1].at[ids].add(slopes[0]), None),
)


def logits(config: ModelConfig, params: Params, hidden: Float[Array, "... D"]) -> Float[Array, "... V"]:
    """Unnormalised log-probabilities of the next token, float32."""
    return soften(scores(output_matrix(config, params), hidden), config.logit_softcap)


def output_matrix(config: ModelConfig, params: Params) -> Float[Array, "V D"]:
    """What hidden states are scored with: the embedding itself when tied."""
    matrix: Array = params["embed" if config.tie_embeddings else "head"]
    return matrix


def scores(matrix: Float[Array, "V D"], hidden: Float[Array, "... D"]) -> Float[Array, "... V"]:
    """What `logits` are before they are softened, float32: one product with the output matrix."""
    flat = project(hidden.reshape(-1, hidden.shape[-1]), matrix, jnp.float32)
    return flat.reshape(*hidden.shape[:-1], -1)


def prefill(
    config: ModelConfig, params: Params, ids: Int[Array, "B P"], lengths: Int[Array, " B"], *, slots: int
) -> tuple[Float[Array, "B D"], Cache]:
    """Read right-padded prompts into a new cache of `slots` >= P; returns the hidden state of each last token."""
    rows, width = ids.shape
    positions = jnp.broadcast_to(jnp.arange(width), (rows, width))
    mask = jnp.tril(jnp.ones((1, width, width), bool))
    hidden, written = _decoder(config, params)(ids, positions, mask, of=jnp.maximum(lengths - 1, 0))
    return hidden[:, 0], [cached(layer[0], layer[1], slots) for layer in written]


def extend(
    config: ModelConfig,
    params: Params,
    ids: Int[Array, "B T"],
    start: Int[Array, " B"],
    cache: Cache,
    of: Int[Array, " B"] | None = None,
) -> tuple[Float[Array, "B T D"], Cache]:
    """Append T tokens a row from position `start` on; they see the row's cache and one another, causally.

    Right-padded tokens are harmless: the slots that they touch are written again before anything sees them.

    Args:
      of: the token of each row whose hidden state is wanted, T = 1 of what comes back; None = those of all.
    """
    positions = start[:, None] + jnp.arange(ids.shape[1])  # [B T]
    slots = cache[0].slots
    mask = jnp.arange(slots) <= positions[:, :, None]  # [B T S]
    hidden, written = _decoder(config, params)(ids, positions, mask, cache, of=of)
    return hidden, cast(Cache, written)


def decode_step(
    config: ModelConfig, params: Params, token: Int[Array, " B"], position: Int[Array, " B"], cache: Cache
) -> tuple[Float[Array, "B D"], Cache]:
    """One token a row at its own position: hidden states that predict the next one, and the cache with it written."""
    hidden, cache = extend(config, params, token[:, None], position, cache)
    return hidden[:, 0], cache


def _decoder(config: ModelConfig, params: Params) -> Decoder:
    """The module with these weights; a tree without an adapter is the base, whatever the config says."""
    if config.lora is not None and not has_adapter(params):
        config = replace(config, lora=None)
    module: Decoder = nnx.merge(graph(config), params)
    return module


def has_adapter(params: Params) -> bool:
    """Whether any matrix of a tree has an adapter beside it."""
    return "lora_a" in params or any(isinstance(node, dict) and has_adapter(node) for node in params.values())
