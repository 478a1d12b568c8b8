"""Makes the golden files: log-probs of transformers' torch models, fp32, eager attention.

Needs torch and transformers 5, which the tests do not. From the repository's root:
    python -m tests.models.golden.make                     random small models: one JSON each beside this file
    python -m tests.models.golden.make FOLDER OUT.json     a real model, over the sentences below
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer

from tests.models.golden.weights import tensor

HERE = Path(__file__).parent
LENGTH = 40
BASE: dict[str, Any] = {
    "vocab_size": 120, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
SLIDING, FULL = "sliding_attention", "full_attention"
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e3, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6}
LOCAL = {"rope_type": "default", "rope_theta": 1e3}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True, "head_dim": 16}),  # noqa: E501
    "llama_mha_tied_linear": ("llama", {"rope_parameters": LINEAR, "tie_word_embeddings": True, "num_key_value_heads": 4}),  # noqa: E501
    "qwen2": ("qwen2", {"tie_word_embeddings": False, "rms_norm_eps": 1e-3}),
    "qwen2_window": ("qwen2", {"tie_word_embeddings": True, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),  # noqa: E501
    "qwen3": ("qwen3", {"tie_word_embeddings": False, "head_dim": 16, "num_key_value_heads": 1}),
    "qwen3_window": ("qwen3", {"tie_word_embeddings": True, "head_dim": 8, "attention_bias": True, "use_sliding_window": True, "sliding_window": 8, "layer_types": [SLIDING, FULL, SLIDING]}),  # noqa: E501
    "gemma2": ("gemma2", {"head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 8, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0}),  # noqa: E501
    "gemma3": ("gemma3_text", {"head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 8, "layer_types": [SLIDING, FULL, SLIDING], "rope_parameters": {FULL: LINEAR, SLIDING: LOCAL}, "final_logit_softcapping": 5.0, "attn_logit_softcapping": 2.0}),  # noqa: E501
    "gemma3_untied": ("gemma3_text", {"head_dim": 8, "num_key_value_heads": 1, "num_hidden_layers": 12, "query_pre_attn_scalar": 8, "sliding_window": 6, "attention_bias": True, "tie_word_embeddings": False}),  # noqa: E501
}  # fmt: skip
SENTENCES = [
    "",
    "The capital of France is Paris, and the capital of Italy is",
    "3, 1, 2 sorted: 1, 2, 3\n9, 4, 7 sorted: 4, 7, 9\n5, 8, 6 sorted:",
    "def reverse(numbers):\n    return numbers[::-1]\n",
    "Καλημέρα κόσμε! 你好，世界。 🙂",
]


def logprobs(model: Any, ids: list[int]) -> list[float | None]:
    """log p of every token after the first, nats."""
    with torch.no_grad():
        z = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
    return [None, *(round(float(z[i, token]), 7) for i, token in enumerate(ids[1:]))]


def random_model(name: str, seed: int) -> dict[str, Any]:
    family, fields = CASES[name]
    config = CONFIG_MAPPING[family](**(BASE | fields))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    if config.tie_word_embeddings:
        shapes.pop("lm_head.weight")
    weights = {k: torch.from_numpy(tensor(k, s, seed=seed, gemma="gemma" in family)) for k, s in shapes.items()}
    model.load_state_dict(weights, strict=False)
    model.tie_weights()
    written = json.loads(config.to_json_string()) | {"architectures": [type(model).__name__]}
    ids = np.random.default_rng(seed).integers(3, 100, (2, LENGTH)).tolist()
    return {
        "config": written,
        "shapes": shapes,
        "seed": seed,
        "ids": ids,
        "logprobs": [logprobs(model, i) for i in ids],
    }


def main() -> None:
    if len(sys.argv) == 3:
        tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
        model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32, attn_implementation="eager")
        texts = [t for t in SENTENCES if tokenizer(t).input_ids]
        texts.append(" ".join(f"{i} plus {i + 1} is {2 * i + 1}." for i in range(70)))  # past Gemma's window of 512
        ids = [tokenizer(t).input_ids for t in texts]
        golden = {"texts": texts, "ids": ids, "logprobs": [logprobs(model.eval(), i) for i in ids]}
        Path(sys.argv[2]).write_text(json.dumps(golden) + "\n")
        return
    for seed, name in enumerate(CASES):
        golden = random_model(name, seed)
        flat = np.array([row[1:] for row in golden["logprobs"]])
        print(f"{name:24} mean log-prob {flat.mean():.2f}, deviation {flat.std():.2f} (uniform: -4.79, 0)")
        (HERE / f"{name}.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
