"""What a decoder is made of, read from and written to a Hugging Face config.json.

The JSON is read directly: importing transformers takes seconds and tells us nothing more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from selfplay.config import Lora
from selfplay.errors import UserError, nearest

Activation = Literal["silu", "gelu_pytorch_tanh"]


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Rotary frequencies slowed to reach further than the model was trained for."""

    rope_type: Literal["linear", "llama3"] = "llama3"
    """linear: every frequency is divided by `factor`. llama3: only the low ones are."""
    factor: float
    low_freq_factor: float = 1.0
    """llama3: frequencies of fewer turns than this over the original positions are divided by `factor`."""
    high_freq_factor: float = 4.0
    """llama3: frequencies of more turns than this are kept; between the two, blended."""
    original_max_positions: int = 8192


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
    activation: Activation = "silu"
    """Of the MLP's gate."""
    rope_theta: float = 10000.0
    """Base of the rotary wavelengths."""
    rope_scaling: RopeScaling | None = None
    local_rope_theta: float | None = None
    """Base in the sliding layers, which then have no scaling (Gemma 3); None = they rotate as the others do."""
    sliding_window: int = 0
    """A token in a sliding layer sees itself and the sliding_window - 1 tokens before it."""
    sliding_layers: tuple[int, ...] = ()
    """Layers with the window, counted from 0; the others see everything before them."""
    rms_eps: float = 1e-6
    norm_plus_one: bool = False
    """Norms multiply by 1 + weight, in float32 (Gemma)."""
    post_norms: bool = False
    """What attention and MLP add to the residual stream is normed as well: four norms a block (Gemma)."""
    tie_embeddings: bool = True
    """The output matrix is the embedding matrix."""
    scale_embeddings: bool = False
    """Embeddings enter the residual stream times sqrt(D), rounded to their dtype (Gemma)."""
    query_scale: int | None = None
    """Attention scores are divided by its square root (Gemma's query_pre_attn_scalar); None = head_dim."""
    attn_softcap: float | None = None
    """Attention scores s become c tanh(s / c)."""
    logit_softcap: float | None = None
    """The same for the logits."""
    qk_norm: bool = False
    """RMSNorm on each head of q and k before the rotation (Qwen 3, Gemma 3)."""
    qkv_bias: bool = False
    output_bias: bool = False
    """Bias of the attention's output projection."""
    mlp_bias: bool = False
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
        if self.sliding_layers and self.sliding_window < 1:
            raise UserError(f"model config: sliding_window must be >= 1, got {self.sliding_window}")


@dataclass(frozen=True)
class Family:
    """What a Hugging Face `model_type` adds to the fields that all families share."""

    architecture: str
    """The class that transformers opens it with."""
    fields: Callable[[Mapping[str, Any]], dict[str, Any]]
    """Fields of ModelConfig, from those of config.json."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What config.json may leave out."""


def _llama(raw: Mapping[str, Any]) -> dict[str, Any]:
    return _biases(raw) | {"mlp_bias": bool(raw.get("mlp_bias", False))}


def _qwen2(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {"qkv_bias": True} | _late_windows(raw)


def _qwen3(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {"qk_norm": True} | _biases(raw) | _late_windows(raw)


def _gemma2(raw: Mapping[str, Any]) -> dict[str, Any]:
    types = raw.get("layer_types") or _every(raw, pattern=2)
    return _gemma(raw) | _windows(raw, types) | {"attn_softcap": _optional(raw["attn_logit_softcapping"])}


def _gemma3(raw: Mapping[str, Any]) -> dict[str, Any]:
    """transformers declares attn_logit_softcapping for Gemma 3 but applies none, and so do we."""
    types = raw.get("layer_types") or _every(raw, pattern=int(raw.get("sliding_window_pattern") or 6))
    return {"qk_norm": True} | _gemma(raw) | _windows(raw, types)


def _gemma(raw: Mapping[str, Any]) -> dict[str, Any]:
    return _biases(raw) | {
        "norm_plus_one": True,
        "post_norms": True,
        "scale_embeddings": True,
        "query_scale": int(raw["query_pre_attn_scalar"]),
        "logit_softcap": _optional(raw["final_logit_softcapping"]),
    }


def _biases(raw: Mapping[str, Any]) -> dict[str, Any]:
    bias = bool(raw.get("attention_bias", False))
    return {"qkv_bias": bias, "output_bias": bias}


def _late_windows(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Qwen: the window is off unless asked for, and then on from layer max_window_layers on."""
    if not raw.get("use_sliding_window") or raw.get("sliding_window") is None:
        return {}
    first = int(raw.get("max_window_layers", 28))
    late = [SLIDING if i >= first else FULL for i in range(int(raw["num_hidden_layers"]))]
    return _windows(raw, raw.get("layer_types") or late)


def _every(raw: Mapping[str, Any], *, pattern: int) -> list[str]:
    """Gemma: every `pattern`-th layer sees everything, the others slide."""
    return [SLIDING if (i + 1) % pattern else FULL for i in range(int(raw["num_hidden_layers"]))]


def _windows(raw: Mapping[str, Any], types: Sequence[str]) -> dict[str, Any]:
    if len(types) != int(raw["num_hidden_layers"]) or not {*types} <= {SLIDING, FULL}:
        raise ValueError(f"layer_types must name {raw['num_hidden_layers']} layers {SLIDING} or {FULL}, got {types}")
    sliding = tuple(i for i, kind in enumerate(types) if kind == SLIDING)
    return {"sliding_window": int(raw["sliding_window"]), "sliding_layers": sliding} if sliding else {}


def _optional(value: Any) -> float | None:
    return None if value is None else float(value)


SLIDING, FULL = "sliding_attention", "full_attention"

_GEMMA: dict[str, Any] = {
    "vocab_size": 256000,
    "head_dim": 256,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 8192,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
_GEMMA3 = _GEMMA | {
    "vocab_size": 262208,
    "max_position_embeddings": 131072,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
}

FAMILIES: dict[str, Family] = {
    "llama": Family("LlamaForCausalLM", _llama),
    "qwen2": Family("Qwen2ForCausalLM", _qwen2),
    "qwen3": Family("Qwen3ForCausalLM", _qwen3, {"head_dim": 128}),
    "gemma2": Family("Gemma2ForCausalLM", _gemma2, _GEMMA),
    "gemma3_text": Family("Gemma3ForCausalLM", _gemma3, _GEMMA3),
}
"""Every `model_type` that the decoder is; a new one is an entry here."""


def read_config(folder: Path) -> ModelConfig:
    """The ModelConfig of a Hugging Face folder.

    Raises:
      UserError: config.json is missing, not JSON, of an unknown family, or lacks a field.
    """
    raw = read_json(folder / "config.json")
    config = from_hf(raw, source=str(folder / "config.json"))
    generation = folder / "generation_config.json"
    if generation.is_file():
        eos = _ids(read_json(generation).get("eos_token_id"))
        config = replace(config, eos_ids=eos or config.eos_ids)
    return config


def from_hf(raw: Mapping[str, Any], *, source: str = "config.json") -> ModelConfig:
    """A ModelConfig from the fields of a Hugging Face config, of transformers 4 or 5."""
    if raw.get("model_type") == "gemma3" and isinstance(raw.get("text_config"), dict):  # with eyes: its text half
        shared = {k: v for k, v in raw.items() if k.endswith("_token_id")}
        raw = shared | raw["text_config"] | {"model_type": "gemma3_text"}
    family = raw.get("model_type")
    if family not in FAMILIES:
        raise UserError(
            f"{source}: model_type {family!r} is not supported; {nearest(str(family), FAMILIES)}"
            f" (supported: {', '.join(FAMILIES)})"
        )
    raw = {**FAMILIES[family].defaults, **raw}
    try:
        if raw.get("use_bidirectional_attention"):
            raise ValueError("use_bidirectional_attention = true is not supported")
        return ModelConfig(**(_shared(raw) | FAMILIES[family].fields(raw)))
    except KeyError as error:
        raise UserError(f"{source}: field {error.args[0]!r} is missing") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{source}: a field has the wrong type or value: {error}") from error
    except UserError as error:
        raise UserError(f"{source}: {error}") from error


def _shared(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that every family reads alike."""
    heads, hidden = int(raw["num_attention_heads"]), int(raw["hidden_size"])
    return {
        "family": raw["model_type"],
        "vocab_size": int(raw["vocab_size"]),
        "hidden_size": hidden,
        "layers": int(raw["num_hidden_layers"]),
        "heads": heads,
        "kv_heads": int(raw.get("num_key_value_heads") or heads),
        "head_dim": int(raw.get("head_dim") or hidden // heads),
        "intermediate_size": int(raw["intermediate_size"]),
        "activation": _activation(raw),
        "rms_eps": float(raw.get("rms_norm_eps", 1e-6)),
        "tie_embeddings": bool(raw.get("tie_word_embeddings", False)),
        "max_positions": int(raw.get("max_position_embeddings", 2048)),
        "eos_ids": _ids(raw.get("eos_token_id")),
        "bos_id": next(iter(_ids(raw.get("bos_token_id"))), None),
        "pad_id": next(iter(_ids(raw.get("pad_token_id"))), None),
        **_rope(raw),
    }


def _activation(raw: Mapping[str, Any]) -> str:
    gemma = raw["model_type"].startswith("gemma")
    name = "hidden_activation" if gemma else "hidden_act"
    found = raw.get(name) or ("gelu_pytorch_tanh" if gemma else "silu")
    if found not in get_args(Activation):
        raise ValueError(f"{name} {found!r} is not supported; valid: {', '.join(get_args(Activation))}")
    return str(found)


def _rope(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Bases and scaling: `rope_parameters` of transformers 5, by layer type where they differ, or 4's own fields."""
    rope = dict(raw.get("rope_parameters") or {})
    full, local = (rope.get(FULL) or {}, rope.get(SLIDING) or {}) if FULL in rope or SLIDING in rope else (rope, {})
    full = {**full, **(raw.get("rope_scaling") or {})}
    found: dict[str, Any] = {
        "rope_theta": float(full.get("rope_theta") or raw.get("rope_theta") or 10000.0),
        "rope_scaling": _rope_scaling(full, int(raw.get("max_position_embeddings", 2048))),
    }
    if "rope_local_base_freq" in raw:
        if _rope_scaling(local, 0) is not None:
            raise ValueError(f"rope_type {local['rope_type']!r} in {SLIDING} is not supported; valid: default")
        found["local_rope_theta"] = float(local.get("rope_theta") or raw["rope_local_base_freq"])
    return found


def _rope_scaling(rope: Mapping[str, Any], max_positions: int) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise ValueError(f"partial_rotary_factor {rope['partial_rotary_factor']} is not supported; valid: 1.0")
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling(rope_type="linear", factor=float(rope["factor"]))
    if kind != "llama3":
        raise ValueError(f"rope_type {kind!r} is not supported; valid: default, linear, llama3")
    return RopeScaling(
        factor=float(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original_max_positions=int(rope.get("original_max_position_embeddings") or max_positions),
    )


def to_hf(config: ModelConfig, *, dtype: str = "float32") -> dict[str, Any]:
    """The config.json that transformers opens as this model; `from_hf` of it is the same ModelConfig."""
    eos = config.eos_ids
    return {
        "architectures": [FAMILIES[config.family].architecture],
        "attention_bias": config.output_bias,
        "attention_dropout": 0.0,
        "bos_token_id": config.bos_id,
        "dtype": dtype,
        "eos_token_id": eos[0] if len(eos) == 1 else list(eos) or None,
        "head_dim": config.head_dim,
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
        "tie_word_embeddings": config.tie_embeddings,
        "use_cache": True,
        "vocab_size": config.vocab_size,
        **_family_fields(config),
    }


def _family_fields(config: ModelConfig) -> dict[str, Any]:
    """What only some families name."""
    rope: dict[str, Any] = {"rope_theta": config.rope_theta, "rope_type": "default"}
    if config.rope_scaling is not None:
        scaling = config.rope_scaling
        rope |= {"rope_type": scaling.rope_type, "factor": scaling.factor}
        if scaling.rope_type == "llama3":
            rope |= {
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_max_positions,
            }
    types = [SLIDING if i in config.sliding_layers else FULL for i in range(config.layers)]
    window = {"layer_types": types, "sliding_window": config.sliding_window or None}
    if not config.family.startswith("gemma"):
        fields = {"hidden_act": config.activation, "rope_parameters": rope, "rope_theta": config.rope_theta}
        if config.family == "llama":
            fields["mlp_bias"] = config.mlp_bias
        return fields | (window | {"use_sliding_window": True} if config.sliding_layers else {})
    if config.local_rope_theta is not None:
        rope = {FULL: rope, SLIDING: {"rope_theta": config.local_rope_theta, "rope_type": "default"}}
    return window | {
        "attn_logit_softcapping": config.attn_softcap,
        "final_logit_softcapping": config.logit_softcap,
        "hidden_activation": config.activation,
        "query_pre_attn_scalar": config.query_scale,
        "rope_parameters": rope,
    }


def _ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(int(v) for v in value) if isinstance(value, list) else (int(value),)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file, or one line that says what is wrong with it."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(raw).__name__}")
    return raw
