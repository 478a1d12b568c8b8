"""`update-grouped`: one optimizer step on groups of attempts that share a prompt, packing included."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.figures import random_ids
from benchmarks.subject import Subject
from benchmarks.update import gradient_floor, measure, settings
from benchmarks.work import forward_flops
from selfplay.models import ModelConfig


def run(
    subject: Subject,
    *,
    tasks: int,
    group: int,
    prompt_tokens: int,
    new_tokens: int,
    micro_rows: int,
    row_tokens: int,
    logit_chunk: int,
    devices: int,
    repeats: int,
) -> dict[str, Any]:
    """As `update`; a prompt counts in tokens_per_s with every attempt, and in FLOPs and the floor once a group."""
    prompts = random_ids(subject.config.vocab_size, tasks, prompt_tokens)
    answers = random_ids(subject.config.vocab_size, tasks * group, new_tokens)
    sequences = [
        (np.concatenate([prompts[i // group], answer]), prompt_tokens, i // group) for i, answer in enumerate(answers)
    ]
    chosen = tasks * group * new_tokens
    computed = tasks * prompt_tokens + chosen
    products = gradient_floor(subject, computed, chosen, micro_rows * row_tokens)
    flops = 3 * grouped_flops(subject.config, tasks, group, prompt_tokens, new_tokens)
    update = settings(micro_rows, row_tokens, logit_chunk)
    return measure(subject, update, sequences, flops, products, devices=devices, repeats=repeats)


def grouped_flops(config: ModelConfig, tasks: int, group: int, prompt: int, new: int) -> int:
    """A forward pass that reads each prompt once."""
    shared = forward_flops(config, tasks, 0, prompt, logits=0)
    return shared + forward_flops(config, tasks * group, prompt, prompt + new, logits=tasks * group * new)
