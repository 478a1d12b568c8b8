"""`rollout`: rows with prompts of their own, all drawn to the same full length at temperature 1."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import floor
from benchmarks.figures import random_ids, spreads
from benchmarks.machine import machine
from benchmarks.subject import Subject, seconds
from benchmarks.work import rollout_seconds
from selfplay.caches import ROW_BUCKET, up
from selfplay.errors import UserError
from selfplay.models.sharding import make_mesh
from selfplay.records import PolicyRef, SamplingSpec
from selfplay.sampler import LocalSampler
from selfplay.streams import Stream, row_keys
from selfplay.written import Completion


def run(
    subject: Subject, *, batch: int, prompt_tokens: int, new_tokens: int, devices: int, repeats: int
) -> dict[str, Any]:
    """Tokens a second of whole calls, each with new weights, beside the roofline and the floor of the same moment."""
    subject = subject.ending_at()
    prompts = random_ids(subject.config.vocab_size, batch, prompt_tokens)
    draw = Draw(subject, prompts, SamplingSpec(max_new_tokens=new_tokens), devices=devices)
    products = _floor(subject, batch, prompt_tokens, new_tokens)
    tokens, itemsize = batch * new_tokens, jnp.dtype(subject.dtype).itemsize
    first, _ = draw(0)
    rows = []
    for step in range(1, repeats + 1):
        can, least = machine(subject.dtype), seconds(products)
        ideal = rollout_seconds(
            subject.config, can, rows=batch, prompt=prompt_tokens, new=new_tokens, itemsize=itemsize
        )
        spent, done = draw(step)
        if {c.ids.size for c in done} != {new_tokens}:
            raise ValueError(f"every row must draw {new_tokens} tokens, got {[c.ids.size for c in done]}")
        rows.append(
            {
                "tokens_per_s": tokens / spent,
                "roofline_tokens_per_s": tokens / ideal,
                "gemm_floor_tokens_per_s": tokens / least,
                "fraction_of_roofline": ideal / spent,
                "fraction_of_gemm_floor": least / spent,
                **can._asdict(),
            }
        )
    return {"first_call_s": first, **spreads(rows)}


class Draw:
    """Draws one batch with the weights and keys of a step, its rows shared by so many devices."""

    def __init__(
        self, subject: Subject, prompts: list[np.ndarray], spec: SamplingSpec, attempts: int = 1, *, devices: int
    ) -> None:
        rows = up(len(prompts) * attempts, ROW_BUCKET)
        if rows % devices:
            raise UserError(f"--devices {devices}: {rows} rows (a multiple of {ROW_BUCKET}) do not divide over them")
        self.subject, self.prompts, self.spec, self.attempts = subject, prompts, spec, attempts
        self.sampler = LocalSampler(subject.config, subject.tokenizer, make_mesh(devices) if devices > 1 else None)

    def __call__(self, step: int) -> tuple[float, list[Completion]]:
        """Seconds of the whole call, and what it drew."""
        ref = PolicyRef("main", step)
        self.sampler.load(ref, self.subject.changed(step))
        keys = row_keys(0, Stream.SOLVE, 0, step, 0, len(self.prompts) * self.attempts)
        began = time.perf_counter()
        done = self.sampler.complete(ref, self.prompts, keys, self.spec, attempts=self.attempts)
        spent = time.perf_counter() - began
        self.sampler.drop(ref)
        return spent, done


def _floor(subject: Subject, batch: int, prompt_tokens: int, new_tokens: int) -> Callable[[], object]:
    """The products of a whole call: the prefill's, with logits at the last positions, and those of every later step."""
    config, params = subject.config, subject.params
    x = jax.random.normal(jax.random.key(0), (batch * prompt_tokens, config.hidden_size), subject.dtype)

    def products() -> object:
        return floor.forward(config, params, x, x[:batch]), floor.decode(config, params, x[:batch], new_tokens - 1)

    jax.block_until_ready(products())
    return products
