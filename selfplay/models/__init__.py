"""Language models: configuration, one decoder, Hugging Face load and save, tokenizer, sharding rules."""

from __future__ import annotations

from selfplay.models.config import ModelConfig
from selfplay.models.decoder import (
    Params,
    decode_step,
    extend,
    forward,
    init_params,
    logits,
    prefill,
)
from selfplay.models.hf import Model, load, save
from selfplay.models.kv_cache import Cache
from selfplay.models.tokenizer import Tokenizer, printable_ascii

__all__ = [
    "Cache",
    "Model",
    "ModelConfig",
    "Params",
    "Tokenizer",
    "decode_step",
    "extend",
    "forward",
    "init_params",
    "load",
    "logits",
    "prefill",
    "printable_ascii",
    "save",
]
