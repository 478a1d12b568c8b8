"""What a decoder is made of, read from and written to a Hugging Face config.json.

The JSON is read directly: importing transformers takes seconds and tells us nothing more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selfplay.config import Lora
from selfplay.errors import UserError, nearest


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Llama 3.1's stretching of the low rotary frequencies (`rope_type: llama3`)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that shapes a decoder. Hashable, so that jitted functions take it as a static argument."""

    family: str
    """Hugging Face `model_type`, a key of FAMILIES."""
    vocab_size: int
    hidden_size: int
    """D: width of the residual stream."""
    layers: int
    heads: int
    """Query heads."""
    kv_heads: int
    """Key and value heads; each serves heads / kv_heads query heads."""
    head_dim: int
    intermediate_size: int
    """Width of the gated MLP."""
    rope_theta: float = 10000.0
    """Base of the rotary wavelengths."""
    rope_scaling: RopeScaling | None = None
    rms_eps: float = 1e-6
    tie_embeddings: bool = True
    """The output matrix is the embedding matrix."""
    qk_norm: bool = False
    """RMSNorm on each head of q and k before the rotation (Qwen 3)."""
    qkv_bias: bool = False
    output_bias: bool = False
    """Bias of the attention's output projection."""
    max_positions: int = 2048
    eos_ids: tuple[int, ...] = ()
    """Tokens that end a completion."""
    bos_id: int | None = None
    pad_id: int | None = None
    lora: Lora | None = None
    """Adapters beside the matrices; never part of a folder's config.json."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "layers", "heads", "kv_heads", "head_dim", "intermediate_size"):
            if getattr(self, name) < 1:
                raise UserError(f"model config: {name} must be >= 1, got {getattr(self, name)}")
        if self.heads % self.kv_heads:
            raise UserError(f"model config: heads must be a multiple of kv_heads, got {self.heads} and {self.kv_heads}")
        if self.head_dim % 2:
            raise UserError(f"model config: head_dim must be even, got {self.head_dim}")


def _qwen2(_: Mapping[str, Any]) -> dict[str, Any]:
    return {"qkv_bias": True}


def _qwen3(raw: Mapping[str, Any]) -> dict[str, Any]:
    bias = bool(raw.get("attention_bias", False))
    return {"qk_norm": True, "qkv_bias": bias, "output_bias": bias, "head_dim": raw.get("head_dim", 128)}


def _llama(raw: Mapping[str, Any]) -> dict[str, Any]:
    bias = bool(raw.get("attention_bias", False))
    return {"qkv_bias": bias, "output_bias": bias}


FAMILIES: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
}
"""What each family adds to the fields that all share; a new family is one function here."""

_ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


def read_config(folder: Path) -> ModelConfig:
    """The ModelConfig of a Hugging Face folder.

    Raises:
      UserError: config.json is missing, not JSON, of an unknown family, or lacks a field.
    """
    raw = _read_json(folder / "config.json")
    config = from_hf(raw, source=str(folder / "config.json"))
    generation = folder / "generation_config.json"
    if generation.is_file():
        eos = _ids(_read_json(generation).get("eos_token_id"))
        config = replace(config, eos_ids=eos or config.eos_ids)
    return config


def from_hf(raw: Mapping[str, Any], *, source: str = "config.json") -> ModelConfig:
    """A ModelConfig from the fields of a Hugging Face config, of transformers 4 or 5."""
    family = raw.get("model_type")
    if family not in FAMILIES:
        raise UserError(
            f"{source}: model_type {family!r} is not supported; {nearest(str(family), FAMILIES)}"
            f" (supported: {', '.join(FAMILIES)})"
        )
    _refuse_unsupported(raw, source)
    rope = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    try:
        heads = int(raw["num_attention_heads"])
        hidden = int(raw["hidden_size"])
        shared: dict[str, Any] = {
            "family": family,
            "vocab_size": int(raw["vocab_size"]),
            "hidden_size": hidden,
            "layers": int(raw["num_hidden_layers"]),
            "heads": heads,
            "kv_heads": int(raw.get("num_key_value_heads") or heads),
            "head_dim": int(raw.get("head_dim") or hidden // heads),
            "intermediate_size": int(raw["intermediate_size"]),
            "rope_theta": float(rope.get("rope_theta") or raw.get("rope_theta") or 10000.0),
            "rope_scaling": _rope_scaling(rope, source),
            "rms_eps": float(raw.get("rms_norm_eps", 1e-6)),
            "tie_embeddings": bool(raw.get("tie_word_embeddings", False)),
            "max_positions": int(raw.get("max_position_embeddings", 2048)),
            "eos_ids": _ids(raw.get("eos_token_id")),
            "bos_id": next(iter(_ids(raw.get("bos_token_id"))), None),
            "pad_id": next(iter(_ids(raw.get("pad_token_id"))), None),
        }
        return ModelConfig(**(shared | FAMILIES[family](raw)))
    except KeyError as error:
        raise UserError(f"{source}: field {error.args[0]!r} is missing") from error
    except (TypeError, ValueError) as error:
        raise UserError(f"{source}: a field has the wrong type: {error}") from error


def to_hf(config: ModelConfig, *, dtype: str = "float32") -> dict[str, Any]:
    """The config.json that transformers opens as this model; `from_hf` of it is the same ModelConfig."""
    rope: dict[str, Any] = {"rope_theta": config.rope_theta, "rope_type": "default"}
    if config.rope_scaling is not None:
        scaling = config.rope_scaling
        rope |= {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_positions,
        }
    eos = config.eos_ids
    return {
        "architectures": [_ARCHITECTURES[config.family]],
        "attention_bias": config.output_bias,
        "attention_dropout": 0.0,
        "bos_token_id": config.bos_id,
        "dtype": dtype,
        "eos_token_id": eos[0] if len(eos) == 1 else list(eos) or None,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_positions,
        "model_type": config.family,
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "num_key_value_heads": config.kv_heads,
        "pad_token_id": config.pad_id,
        "rms_norm_eps": config.rms_eps,
        "rope_parameters": rope,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tie_embeddings,
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }


def _refuse_unsupported(raw: Mapping[str, Any], source: str) -> None:
    if raw.get("hidden_act", "silu") != "silu":
        raise UserError(f"{source}: hidden_act {raw['hidden_act']!r} is not supported; valid: silu")
    for field in ("use_sliding_window", "mlp_bias"):
        if raw.get(field):
            raise UserError(f"{source}: {field} = true is not supported")


def _rope_scaling(rope: Mapping[str, Any], source: str) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise UserError(f"{source}: rope_type {kind!r} is not supported; valid: default, llama3")
    return RopeScaling(
        factor=float(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original_max_positions=int(rope["original_max_position_embeddings"]),
    )


def _ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(int(v) for v in value) if isinstance(value, list) else (int(value),)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(raw).__name__}")
    return raw
