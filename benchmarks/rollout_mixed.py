"""`rollout-mixed`: groups that share a prompt, with completions of unlike lengths, as training has them."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.figures import random_ids, spread, spreads
from benchmarks.rollout import Draw
from benchmarks.subject import Subject
from selfplay.records import SamplingSpec


def run(
    subject: Subject,
    *,
    tasks: int,
    group: int,
    prompt_tokens: int,
    new_tokens: int,
    mean_tokens: int,
    slots: int,
    devices: int,
    repeats: int,
) -> dict[str, Any]:
    """Useful tokens a second and the share of decoded slots that held a row still writing.

    Some tokens, the same for all rows, end a completion, so lengths are about geometric with this mean, up to
    new_tokens; which tokens is found by drawing without an end once.
    """
    prompts = random_ids(subject.config.vocab_size, tasks, prompt_tokens)
    spec = SamplingSpec(max_new_tokens=new_tokens, slots=slots)
    _, free = Draw(subject.ending_at(), prompts, spec, group, devices=devices)(0)
    subject = subject.ending_at(*ends(np.stack([completion.ids for completion in free]), mean_tokens))
    draw = Draw(subject, prompts, spec, group, devices=devices)
    first, _ = draw(0)
    rows, lengths = [], []
    for step in range(1, repeats + 1):
        spent, done = draw(step)
        sizes = [c.ids.size for c in done]
        lengths += sizes
        rows.append({"tokens_per_s": sum(sizes) / spent, "occupancy": sum(sizes) / draw.sampler.slots_decoded})
    return {"first_call_s": first, **spreads(rows), "length": {"mean": float(np.mean(lengths)), **spread(lengths)}}


def ends(texts: np.ndarray, mean: float) -> tuple[int, ...]:
    """Tokens at the first of which the texts [R T] would have this mean length (the end token counts).

    Taken in a random order, each if the mean does not fall below the one wanted by more than 2 % with it.
    """
    rows, length = texts.shape
    cut, chosen = np.full(rows, length), list[int]()
    for token in np.random.default_rng(0).permutation(np.unique(texts)):
        hit = texts == token
        shorter = np.minimum(cut, np.where(hit.any(1), hit.argmax(1) + 1, length))
        if shorter.mean() >= 0.98 * mean:
            cut, chosen = shorter, [*chosen, int(token)]
    return tuple(chosen)
