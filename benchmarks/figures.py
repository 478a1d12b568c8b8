"""How figures are summed up, and the ids that are measured on: no jax, so that peers use the very same."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence

import numpy as np


def random_ids(vocab_size: int, rows: int, tokens: int) -> list[np.ndarray]:
    """Distinct sequences [tokens] int32 of ordinary tokens."""
    drawn = np.random.default_rng(0).integers(min(4, vocab_size - 1), vocab_size, (rows, tokens))
    return list(drawn.astype(np.int32))


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and extremes of a figure's repeats."""
    return {"median": float(np.median(values)), "min": float(min(values)), "max": float(max(values))}


def spreads(rows: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """The same for every figure of the repeats."""
    return {name: spread([row[name] for row in rows]) for name in rows[0]}


def process_peak_bytes() -> int:
    """The most that this process had resident so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
