"""A plan as a table for a person, or as one JSON object."""

from __future__ import annotations

import json
from dataclasses import asdict

from selfplay.plan import GIB, MOMENTS, Plan

WORDS = {
    "parameters": "trained parameters, float32 (the master copy)",
    "moments": "optimizer moments (and a critic), float32",
    "gradients": "sum of gradients, float32",
    "base": "weights as opened (base, KL reference)",
    "slab": "slabs of the batch",
    "scratch": "activations and scratch of a slab",
    "sampler_weights": "sampler's weights",
    "sampler_next": "sampler's next weights",
    "sampler_gathered": "sampler's weights gathered over fsdp for a call",
    "kv_cache": "KV cache",
    "kv_set_aside": "KV cache of rows set aside, at most",
    "sampler_scratch": "sampler's logits and prefill scores",
}
"""What each part is."""

SAID = {
    "compiled": "the program compiled for this CPU, at two depths (an accelerator needs less with remat or fsdp)",
    "abstract": "what the traced program keeps, and a formula (footprint.abstract_scratch); not measured on a device",
}


def to_json(plan: Plan) -> str:
    """The plan as one JSON object, in bytes."""
    return json.dumps(asdict(plan))


def table(plan: Plan) -> str:
    """The plan as a person reads it."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items() if size > 1) or "one device"
    budget = plan.memory_gib * (1 - plan.reserve)
    lines = [
        f"{plan.model} ({plan.dtype}), recipe {plan.recipe}, {plan.devices} x {plan.memory_gib:g} GiB"
        f" ({plan.reserve:.0%} kept free: {budget:.2f} GiB)",
        f"mesh: {mesh}{' (chosen here)' if plan.chosen_mesh else ''}",
        f"update: {plan.micro_rows} rows of {plan.row_tokens} tokens a device; sampler: {plan.sampled_rows} rows of up"
        f" to {plan.prompt_tokens} + {plan.response_tokens} tokens",
        "",
        f"{'on a device':<54}{'GiB':>9}  held in",
    ]
    for part, words in WORDS.items():
        held = " ".join(moment for moment, names in MOMENTS.items() if part in names)
        lines.append(f"{words:<54}{plan.bytes[part] / GIB:9.3f}  {held}")
    lines.append("")
    for moment, total in plan.moments.items():
        lines.append(f"{moment:<54}{total / GIB:9.3f}  {_verdict(total / GIB, budget)}")
    lines += [
        "",
        f"scratch: {SAID[plan.scratch_from]}",
        f"largest update.micro_rows at {plan.row_tokens} tokens: {plan.largest_micro_rows or 'none fits'}",
        f"longest response at {plan.micro_rows} rows, after {plan.prompt_tokens} of prompt:"
        f" {plan.largest_response or 'none fits'}",
        *(["all fits"] if plan.fits else [f"does not fit: {problem}" for problem in plan.problems]),
    ]
    return "\n".join(lines)


def _verdict(gib: float, budget: float) -> str:
    return "fits" if gib <= budget else f"over by {gib - budget:.2f}"
