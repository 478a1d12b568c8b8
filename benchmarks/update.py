"""`update`: one optimizer step on sequences of one length, packing included."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from msgspec import structs

from benchmarks import floor
from benchmarks.figures import process_peak_bytes, random_ids, spreads
from benchmarks.machine import machine
from benchmarks.subject import Subject, seconds
from benchmarks.work import forward_flops
from envs.base import Verdict
from selfplay.config import RoleConfig, Update
from selfplay.models.sharding import make_mesh
from selfplay.packing import Item, minibatches
from selfplay.records import PolicyRef, Trajectory
from selfplay.update import Updater

ROLES = {"propose": RoleConfig(), "solve": RoleConfig()}


def run(
    subject: Subject,
    *,
    sequences: int,
    tokens: int,
    micro_rows: int,
    row_tokens: int,
    logit_chunk: int,
    devices: int,
    repeats: int,
) -> dict[str, Any]:
    """Tokens a second of a PPO step (forward, backward, AdamW) in which every token but the first was chosen."""
    texts = random_ids(subject.config.vocab_size, sequences, tokens)
    flops = 3 * forward_flops(subject.config, sequences, 0, tokens, logits=sequences * (tokens - 1))
    products = gradient_floor(subject, sequences * tokens, sequences * (tokens - 1), micro_rows * row_tokens)
    update = settings(micro_rows, row_tokens, logit_chunk)
    alone = [(text, 1, i) for i, text in enumerate(texts)]
    return measure(subject, update, alone, flops, products, devices=devices, repeats=repeats)


def settings(micro_rows: int, row_tokens: int, logit_chunk: int) -> Update:
    """One optimizer step a batch, nothing filtered."""
    return Update(
        minibatches=1,
        warmup_steps=0,
        filter="none",
        micro_rows=micro_rows,
        row_tokens=row_tokens,
        logit_chunk=logit_chunk,
    )


def measure(
    subject: Subject,
    update: Update,
    sequences: Sequence[tuple[np.ndarray, int, int]],
    flops: float,
    products: Callable[[], object],
    *,
    devices: int,
    repeats: int,
) -> dict[str, Any]:
    """Optimizer steps on sequences, each [n] ids with its prompt's length and its group.

    Args:
      flops: what has to be computed at least.
      products: the floor, on one device with all threads.
      devices: share the rows.
    """
    updater = Updater(subject.config, update, ROLES, make_mesh(devices), dtype=subject.dtype)
    state = updater.init(subject.params)
    items = _items(updater, subject, sequences)
    every = sum(item.trajectory.ids.size for item in items)
    chosen = sum(int(item.trajectory.mask.sum()) for item in items)

    def step(seed: int) -> float:
        nonlocal state
        began = time.perf_counter()
        batches = minibatches(
            items, policy="main", planned={"solve": len(items)}, roles=ROLES, update=update, seed=seed,
            multiple=updater.row_multiple,
        )  # fmt: skip
        state, taken = updater.step(state, batches)
        jax.block_until_ready(state.params)
        if taken["update/skipped"]:
            raise ValueError("a step was skipped: nothing was measured")
        return time.perf_counter() - began

    first, rows = step(0), []
    peak = peak_bytes()
    for seed in range(1, repeats + 1):
        can, least = machine(subject.dtype), seconds(products)
        spent = step(seed)
        rows.append(
            {
                "tokens_per_s": every / spent,
                "trained_tokens_per_s": chosen / spent,
                "flop_fraction": flops / can.flops_per_s / spent,
                "gemm_floor_tokens_per_s": every / least,
                "fraction_of_gemm_floor": least / spent,
                **can._asdict(),
            }
        )
    return {"first_call_s": first, "peak_bytes": peak, **spreads(rows)}


def _items(updater: Updater, subject: Subject, sequences: Sequence[tuple[np.ndarray, int, int]]) -> list[Item]:
    """Sequences as the refiner hands them over: credit at random, log-probabilities as the model itself has them."""
    trajectories = [
        Trajectory(
            role="solve",
            policy=PolicyRef("main", 0),
            ids=ids,
            mask=np.arange(ids.size) >= prompt,
            behaviour_logprobs=np.zeros(ids.size, np.float32),
            turn_starts=(prompt,),
            finish=("length",),
            verdict=Verdict(0.0, "wrong"),
            text="",
        )
        for ids, prompt, _ in sequences
    ]
    scored = updater.logprobs(subject.params, trajectories)
    credit = np.random.default_rng(1).normal(size=len(trajectories)).astype(np.float32)
    return [
        Item(trajectory=_scored(t, logprobs), advantages=np.where(t.mask, a, np.float32(0)), group=group)
        for t, logprobs, a, (_, _, group) in zip(trajectories, scored, credit, sequences, strict=True)
    ]


def _scored(trajectory: Trajectory, logprobs: np.ndarray) -> Trajectory:
    return structs.replace(trajectory, behaviour_logprobs=logprobs.astype(np.float32))


def gradient_floor(subject: Subject, tokens: int, chosen: int, slab: int) -> Callable[[], object]:
    """The products of a gradient of so many tokens with logits at the chosen ones, `slab` tokens at a time."""
    config, slab = subject.config, min(slab or tokens, tokens)
    x = jax.random.normal(jax.random.key(0), (slab, config.hidden_size), subject.dtype)
    heads = x[: max(1, round(slab * chosen / tokens))]
    slabs = max(1, round(tokens / slab))

    def products() -> object:
        return [jax.block_until_ready(floor.gradient(config, subject.params, x, heads)) for _ in range(slabs)][-1]

    jax.block_until_ready(products())
    return products


def peak_bytes() -> int:
    """The most memory held at once so far: of the accelerator, or else of the whole process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    return process_peak_bytes()
