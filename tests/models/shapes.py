"""Small decoders that the model tests share."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from selfplay.models import ModelConfig, Params, init_params

QWEN3 = ModelConfig(
    family="qwen3", vocab_size=128, hidden_size=32, layers=2, heads=4, kv_heads=2, head_dim=8, intermediate_size=48,
    qk_norm=True, max_positions=128, eos_ids=(2,), bos_id=1, pad_id=0,
)  # fmt: skip
QWEN2 = replace(QWEN3, family="qwen2", qk_norm=False, qkv_bias=True, tie_embeddings=False)
LLAMA = replace(QWEN3, family="llama", qk_norm=False, kv_heads=4)
GEMMA2 = replace(
    QWEN3, family="gemma2", qk_norm=False, activation="gelu_pytorch_tanh", norm_plus_one=True, post_norms=True,
    scale_embeddings=True, query_scale=8, attn_softcap=50.0, logit_softcap=30.0, sliding_window=4, sliding_layers=(0,),
)  # fmt: skip
GEMMA3 = replace(GEMMA2, family="gemma3_text", qk_norm=True, attn_softcap=None, logit_softcap=None, rope_theta=1e6,
                 local_rope_theta=1e4)  # fmt: skip
FAMILIES = (QWEN3, QWEN2, LLAMA, GEMMA2, GEMMA3)


def random_params(config: ModelConfig, seed: int = 0) -> Params:
    """Fresh parameters with every norm and bias moved off its start, so that none can be forgotten unnoticed."""
    params = init_params(config, jax.random.key(seed))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    moved = [x + 0.2 * jax.random.normal(k, x.shape, jnp.float32) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, moved)
