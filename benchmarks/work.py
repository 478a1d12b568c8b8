"""How much a model has to compute and to read, counted from its sizes.

Letters: B rows, P prompt tokens, T new tokens, V vocabulary, D width, N query heads, K key heads, H head width.
"""

from __future__ import annotations

from benchmarks.machine import Machine
from selfplay.models import ModelConfig


def body_weights(config: ModelConfig) -> int:
    """Weights that every token is multiplied with, but for the output matrix."""
    c = config
    attention = 2 * c.hidden_size * c.heads * c.head_dim + 2 * c.hidden_size * c.kv_heads * c.head_dim
    return c.layers * (attention + 3 * c.hidden_size * c.intermediate_size)


def head_weights(config: ModelConfig) -> int:
    return config.vocab_size * config.hidden_size


def seen(config: ModelConfig, position: int) -> int:
    """Positions that the token at a position sees, itself included, added up over the layers."""
    near = len(config.sliding_layers)
    return (config.layers - near) * (position + 1) + near * min(position + 1, config.sliding_window or position + 1)


def attention_flops(config: ModelConfig, first: int, last: int) -> int:
    """q k^T and its product with v for the tokens at positions first .. last - 1 of one row: 4 N H a position seen."""
    return 4 * config.heads * config.head_dim * sum(seen(config, p) for p in range(first, last))


def forward_flops(config: ModelConfig, rows: int, first: int, last: int, *, logits: int) -> int:
    """A forward pass over positions first .. last - 1 of some rows, with logits at so many positions in all.

    2 FLOPs a weight and token, and attention (Kaplan et al. 2020, arXiv:2001.08361, section 2.1; here attention is
    causal and counted exactly).
    """
    body = 2 * body_weights(config) * (last - first) + attention_flops(config, first, last)
    return rows * body + 2 * head_weights(config) * logits


def cache_row_bytes(config: ModelConfig, position: int, itemsize: int) -> int:
    """Keys and values that one row reads to draw the token after `position`."""
    return 2 * config.kv_heads * config.head_dim * seen(config, position) * itemsize


def rollout_seconds(config: ModelConfig, machine: Machine, *, rows: int, prompt: int, new: int, itemsize: int) -> float:
    """The least that drawing `new` tokens a row can take: a prefill, then a step a token but the last.

    A step reads all weights once, whatever the rows, and each row's keys and values.
    """
    read = (body_weights(config) + head_weights(config)) * itemsize
    total = machine.seconds(flops=forward_flops(config, rows, 0, prompt, logits=rows), read=read)
    for position in range(prompt, prompt + new - 1):
        flops = forward_flops(config, rows, position, position + 1, logits=rows)
        total += machine.seconds(flops=flops, read=read + rows * cache_row_bytes(config, position, itemsize))
    return total
