"""transformers in PyTorch's eager mode: `generate`, and a policy gradient step with AdamW."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from benchmarks.figures import process_peak_bytes, random_ids, spreads


def rollout(
    *, model: str, threads: int, repeats: int, batch: int, prompt_tokens: int, new_tokens: int
) -> dict[str, Any]:
    """Tokens a second of whole calls of `generate`, each with new weights; no token ends a row."""
    net = open_model(model, threads).eval()
    net.generation_config = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, min_new_tokens=new_tokens, max_new_tokens=new_tokens,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    ids = torch.from_numpy(np.stack(random_ids(net.config.vocab_size, batch, prompt_tokens)).astype(np.int64))

    def draw() -> float:
        began = time.perf_counter()
        with torch.inference_mode():
            texts = net.generate(input_ids=ids, attention_mask=torch.ones_like(ids))
        spent = time.perf_counter() - began
        if texts.shape != (batch, prompt_tokens + new_tokens):
            raise ValueError(f"every row must draw {new_tokens} tokens, got {tuple(texts.shape)}")
        return spent

    first, rows = draw(), []
    for _ in range(repeats):
        change(net)
        rows.append({"tokens_per_s": batch * new_tokens / draw()})
    return {"first_call_s": first, "peak_bytes": process_peak_bytes(), **spreads(rows)}


def update(*, model: str, threads: int, repeats: int, sequences: int, tokens: int, micro_rows: int) -> dict[str, Any]:
    """Tokens a second of an optimizer step in which every token but the first is trained."""
    net = open_model(model, threads)
    ids = np.stack(random_ids(net.config.vocab_size, sequences, tokens))
    return _steps(net, ids, prompt=1, micro_rows=micro_rows, repeats=repeats)


def update_grouped(
    *,
    model: str,
    threads: int,
    repeats: int,
    tasks: int,
    group: int,
    prompt_tokens: int,
    new_tokens: int,
    micro_rows: int,
) -> dict[str, Any]:
    """The same for attempts at shared prompts in the plain form: each with its own copy of the prompt."""
    net = open_model(model, threads)
    prompts = np.repeat(random_ids(net.config.vocab_size, tasks, prompt_tokens), group, axis=0)
    answers = np.stack(random_ids(net.config.vocab_size, tasks * group, new_tokens))
    ids = np.concatenate([prompts, answers], axis=1)
    return _steps(net, ids, prompt=prompt_tokens, micro_rows=micro_rows, repeats=repeats)


def open_model(folder: str, threads: int) -> Any:
    """The model in float32; torch keeps to so many threads."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def change(net: Any) -> None:
    """Other weights of the same size."""
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(1 + 1e-3)


def _steps(net: Any, ids: np.ndarray, *, prompt: int, micro_rows: int, repeats: int) -> dict[str, Any]:
    """PPO steps at ratio 1 on ids [B, T] behind a clip of the gradient's norm; logits only where a token was chosen."""
    net.train()
    adamw = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    rows, chosen = torch.from_numpy(ids.astype(np.int64)), ids.shape[1] - prompt
    credit = torch.from_numpy(np.random.default_rng(1).normal(size=len(ids)).astype(np.float32))
    with torch.no_grad():
        old = torch.cat([_logprobs(net, part, chosen) for part in rows.split(micro_rows)])

    def step() -> float:
        began = time.perf_counter()
        for part, behaviour, weight in zip(
            rows.split(micro_rows), old.split(micro_rows), credit.split(micro_rows), strict=True
        ):
            ratio, weight = torch.exp(_logprobs(net, part, chosen) - behaviour), weight[:, None]
            gain = torch.minimum(ratio * weight, ratio.clamp(0.8, 1.28) * weight)
            (-gain.sum() / rows.shape[0] / chosen).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad()
        return time.perf_counter() - began

    first, taken = step(), [step() for _ in range(repeats)]
    figures = [{"tokens_per_s": ids.size / s, "trained_tokens_per_s": len(ids) * chosen / s} for s in taken]
    return {"first_call_s": first, "peak_bytes": process_peak_bytes(), **spreads(figures)}


def _logprobs(net: Any, ids: Any, chosen: int) -> Any:
    """Log-probabilities [B, chosen] of the last tokens of ids [B, T]; no logits elsewhere."""
    logits = net(input_ids=ids, use_cache=False, logits_to_keep=chosen + 1).logits[:, :-1]
    flat = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, -chosen:].flatten(), reduction="none")
    return -flat.view(len(ids), chosen)


COMMANDS = {"rollout": rollout, "update": update, "update-grouped": update_grouped}
