"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv:2106.09685): what is trained in place of the matrices themselves.

A matrix W [out, in] that is adapted computes x W^T + (alpha / rank) (x A) B, with A [in, rank] and B [rank, out] in the
tree beside `weight` as `lora_a` and `lora_b`. B starts at 0, so the adapted model starts as the base, to the bit; the
adapter left out of the tree is the base, so a reference to it costs no second copy.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from selfplay.config import Lora
from selfplay.models.config import ModelConfig
from selfplay.models.decoder import Params, abstract_params

ADAPTER = ("lora_a", "lora_b")
"""Names of an adapter's leaves."""


def split(params: Params) -> tuple[Params, Params]:
    """The adapter of a tree, and what is left without it. `join` of the two is the tree."""
    adapter: Params = {}
    rest: Params = {}
    for name, node in params.items():
        if isinstance(node, dict):
            for half, into in zip(split(node), (adapter, rest), strict=True):
                if half:
                    into[name] = half
        else:
            (adapter if name in ADAPTER else rest)[name] = node
    return adapter, rest


def join(one: Params, other: Params) -> Params:
    """Two trees without a common leaf as one."""
    joined = dict(one)
    for name, node in other.items():
        if name not in joined:
            joined[name] = node
        elif isinstance(node, dict) and isinstance(joined[name], dict):
            joined[name] = join(joined[name], node)
        else:
            raise ValueError(f"both trees hold {name!r}")
    return joined


def init_adapter(config: ModelConfig, key: jax.Array) -> Params:
    """A fresh float32 adapter: A uniform in +-1 / sqrt(in), B zero, as the paper's own code starts."""
    adapter, _ = split(abstract_params(config))
    leaves, treedef = jax.tree_util.tree_flatten_with_path(adapter)

    def fresh(index: int, path: Any, leaf: Any) -> jax.Array:
        if path[-1].key == "lora_b":
            return jnp.zeros(leaf.shape, jnp.float32)
        bound = leaf.shape[0] ** -0.5
        return jax.random.uniform(jax.random.fold_in(key, index), leaf.shape, jnp.float32, -bound, bound)

    return dict(jax.tree_util.tree_unflatten(treedef, [fresh(i, *pair) for i, pair in enumerate(leaves)]))


def trained_part(config: ModelConfig, params: Params) -> Params:
    """What of a complete tree is trained: all of it, or the adapter."""
    return params if config.lora is None else split(params)[0]


def no_adapter(config: ModelConfig) -> Params:
    """An adapter of zeros: the base, by the same compiled program."""
    adapter, _ = split(abstract_params(config))
    return dict(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), adapter))


def with_adapter(config: ModelConfig, lora: Lora) -> ModelConfig:
    """The same decoder with adapters, where their rank is not 0."""
    return replace(config, lora=lora) if lora.rank else config


def merged(config: ModelConfig, params: Params) -> Params:
    """The same model without an adapter: every W + (alpha / rank) (A B)^T, added in float32, in the dtype of W."""
    if config.lora is None:
        return params
    factor = config.lora.factor

    def fold(node: Params) -> Params:
        if "lora_a" not in node:
            return {name: fold(child) if isinstance(child, dict) else child for name, child in node.items()}
        product = jnp.asarray(node["lora_a"], jnp.float32) @ jnp.asarray(node["lora_b"], jnp.float32)
        weight = (jnp.asarray(node["weight"], jnp.float32) + factor * product.T).astype(node["weight"].dtype)
        return {"weight": weight} | {n: leaf for n, leaf in node.items() if n not in ("weight", *ADAPTER)}

    return fold(params)
