"""What is measured: a model and its weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from selfplay.models import ModelConfig, Params, Tokenizer, init_params, load, printable_ascii

BENCH_TINY = ModelConfig(
    family="qwen3", vocab_size=512, hidden_size=256, layers=4, heads=4, kv_heads=2, head_dim=64, intermediate_size=768,
    qk_norm=True, tie_embeddings=True, max_positions=2048, eos_ids=(2,), bos_id=1, pad_id=0,
)  # fmt: skip
"""3.3 million parameters."""

NEVER = -1
"""A token that is never drawn."""


@dataclass(frozen=True)
class Subject:
    """A model to measure."""

    config: ModelConfig
    params: Params
    tokenizer: Tokenizer
    dtype: Any

    def ending_at(self, *eos_ids: int) -> Subject:
        """The same model, with these tokens alone ending a completion: with none, every row gets its full length."""
        config = replace(self.config, eos_ids=eos_ids)
        return replace(self, config=config, tokenizer=replace(self.tokenizer, eos_id=(*eos_ids, NEVER)[0]))

    def changed(self, step: int) -> Params:
        """Other weights of the same size: those of the subject, a little larger at every step."""
        return dict(jax.tree.map(lambda x: x * jnp.asarray(1 + 1e-3 * step, x.dtype), self.params))


def open_subject(name: str, dtype: str) -> Subject:
    """`bench-tiny`, made from a seed, or what `models.load` opens: `tiny`, or a Hugging Face folder."""
    if name == "bench-tiny":
        params = init_params(BENCH_TINY, jax.random.key(0), jnp.dtype(dtype))
        return Subject(BENCH_TINY, params, printable_ascii(vocab_size=BENCH_TINY.vocab_size), dtype)
    model = load(name, dtype=dtype)
    return Subject(model.config, model.params, model.tokenizer, dtype)


def seconds(work: Callable[[], object]) -> float:
    """How long a piece of work takes, until its arrays are there."""
    began = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - began
