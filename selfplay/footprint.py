"""Bytes that a device holds of a learner and its sampler, from shapes alone: no weights are read or made.

What lasts (parameters, moments, gradients, copies) is exact: the shape of each array's part, times its item size. What
a gradient needs meanwhile, the scratch, is taken from the program itself, at two depths of the model: blocks are alike,
so that the rest of them follow on a line. Two ways to ask the program, by name in SCRATCH:

- compiled: XLA's own account of the program compiled here, `memory_analysis()`. Exact for this machine's CPU, whose
  compiler keeps what it computed or gathered once: more than an accelerator needs, above all with remat or fsdp.
- abstract: what the traced program keeps for its backward pass, and a formula for what comes and goes beside that.

Letters: R rows of T tokens on one device, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from selfplay.config import Remat, RoleConfig, Update
from selfplay.models import ModelConfig, Params
from selfplay.models.decoder import abstract_params
from selfplay.models.lora import trained_part
from selfplay.models.sharding import batch_parts
from selfplay.update import Updater


@dataclass(frozen=True)
class Subject:
    """A policy and how it is trained: all that its bytes follow from."""

    config: ModelConfig
    update: Update
    roles: Mapping[str, RoleConfig]
    mesh: jax.sharding.Mesh
    dtype: Any

    def updater(self, layers: int | None = None, remat: Remat | None = None) -> Updater:
        """An updater of the model, or of its first blocks, that computes as on an accelerator."""
        config = self.config if layers is None else shortened(self.config, layers)
        update = self.update if remat is None else replace(self.update, remat=remat)
        return Updater(config, update, self.roles, self.mesh, dtype=self.dtype, as_elsewhere=True)


def device_bytes(tree: Any) -> int:
    """Bytes of one device's part of every array; one that has no sharding is whole everywhere."""

    def one(leaf: Any) -> int:
        sharding = getattr(leaf, "sharding", None)
        shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
        return int(np.prod(shape)) * int(np.dtype(leaf.dtype).itemsize)

    return sum(map(one, jax.tree.leaves(tree)))


def model_bytes(config: ModelConfig, dtype: Any, *, trained: bool = False) -> int:
    """Bytes of a whole model, or of what of it is trained."""
    params = abstract_params(config)
    if trained:
        params = trained_part(config, params)
    return _size(params) * int(jnp.dtype(dtype).itemsize)


def shortened(config: ModelConfig, layers: int) -> ModelConfig:
    """The same model with fewer blocks, of both kinds where it has two."""
    mixed = 0 < len(config.sliding_layers) < config.layers
    sliding = range(layers - 1 if mixed else layers) if config.sliding_layers else ()
    return replace(config, layers=layers, sliding_layers=tuple(sliding))


def depths(config: ModelConfig) -> tuple[int, int]:
    """The two depths that are looked at: the least that have every kind of block."""
    least = 2 if 0 < len(config.sliding_layers) < config.layers else 1
    return (config.layers, config.layers) if config.layers <= least else (least, least + 1)


def compiled_scratch(subject: Subject, layers: int, rows: int, width: int) -> int:
    """XLA's own count of temporary bytes on a device, of the program that adds a slab's gradient."""
    program = subject.updater(layers).programs.lower("add", rows * batch_parts(subject.mesh), width)
    account: Any = program.compile().memory_analysis()
    return int(account.temp_size_in_bytes)


def abstract_scratch(subject: Subject, layers: int, rows: int, width: int) -> int:
    """What a device holds if nothing is kept but what the backward pass reads, a block's gathered weights at a time.

    kept(R) + 2 inside(R) + weights: what R rows leave for the backward pass; twice what one block leaves without
    remat (computed again, and its gradients), a chunk of logits thrice (logits, softmax, gradient); the
    gradient of what is trained and, in another dtype, its copy, both split as parameters are; and where they are
    split, two blocks' weights whole (one in use, one on its way), one block's gradients, and the output matrix
    with its gradient. Nothing is taken off for `tensor` from what is kept.
    """
    config, update, mesh = shortened(subject.config, layers), subject.update, subject.mesh
    updater = subject.updater(layers)
    activations = _per_row(updater, width) * rows
    inside = (
        _per_row(subject.updater(layers + 1, "none"), width) - _per_row(subject.updater(layers, "none"), width)
    ) * rows
    chunk = min(update.logit_chunk or rows * width, rows * width)
    tensor = int(mesh.shape["tensor"])
    logits = 3 * chunk * config.vocab_size * 4 // tensor
    trained = updater.programs.shapes(batch_parts(mesh), width).state.params
    gradient = device_bytes(trained)
    item = int(jnp.dtype(subject.dtype).itemsize)
    cast = gradient * item // 4 if item != 4 else 0
    return activations + 2 * inside + logits + gradient + cast + _gathered(config, mesh, item) // tensor


def _per_row(updater: Updater, width: int) -> int:
    """Bytes that one more row leaves for the backward pass; weights, which do not grow with rows, fall out."""
    parts, chunk = batch_parts(updater.mesh), updater.update.logit_chunk
    first = chunk // max(width - 1, 1) + 1  # rows from which logits come in chunks
    return (updater.programs.kept(2 * first * parts, width) - updater.programs.kept(first * parts, width)) // (
        first * parts
    )


def _size(params: Params) -> int:
    """How many numbers a tree of shapes holds."""
    return sum(int(leaf.size) for leaf in jax.tree.leaves(params))


def _gathered(config: ModelConfig, mesh: jax.sharding.Mesh, item: int) -> int:
    """Bytes of weights and gradients that a device of an fsdp mesh has whole for a while."""
    if mesh.shape["fsdp"] == 1:
        return 0
    block = abstract_params(shortened(config, 1))["layers"]
    gradients = _size(trained_part(config, block))
    matrix = config.vocab_size * config.hidden_size
    return 2 * item * _size(block) + 4 * gradients + matrix * (item if config.lora is not None else item + 4)


SCRATCH: dict[str, Callable[[Subject, int, int, int], int]] = {
    "compiled": compiled_scratch,
    "abstract": abstract_scratch,
}


@dataclass
class Scratch:
    """Scratch bytes of a device for any rows and width, from few looks at the program, each made once."""

    subject: Subject
    kind: str
    rows: int
    """Rows of a slab on one device, as asked."""
    width: int
    _seen: dict[tuple[int, int], float] = field(default_factory=dict)

    def at(self, rows: int, width: int) -> float:
        """As the program says at two depths, continued on a line to the whole model."""
        if (rows, width) not in self._seen:
            look, (low, high) = SCRATCH[self.kind], depths(self.subject.config)
            a = look(self.subject, low, rows, width)
            slope = (look(self.subject, high, rows, width) - a) / (high - low) if high > low else 0.0
            self._seen[rows, width] = a + slope * (self.subject.config.layers - low)
        return self._seen[rows, width]

    def asked(self) -> float:
        """At the rows and the width that are asked for."""
        return self.at(self.rows, self.width)

    def largest_rows(self, fixed: float, per_row: float, budget: float) -> int:
        """The most rows of the width asked for which fixed + rows * per_row + scratch <= budget; 0 = none."""
        rows, step = 0, 1
        while step:
            if fixed + (rows + step) * per_row + self.line(rows + step) <= budget:
                rows, step = rows + step, 2 * step
            else:
                step //= 2
        return rows

    def line(self, rows: int) -> float:
        """On a line through two numbers of rows of the width asked: one line while the logits fit in one chunk, another
        from there on."""
        first = self._chunked(self.width)
        one, two = (first, 2 * first) if rows >= first else (1, first - 1)
        a = self.at(one, self.width)
        return a if rows == one else a + (self.at(two, self.width) - a) * (rows - one) / (two - one)

    def largest_width(self, room: float, most: int) -> int:
        """The longest rows, in steps of 64 tokens, of which the number asked leaves room: on a parabola, 0 = none.

        Attention is quadratic in the length, all else linear.
        """
        start = max(64, -(-self.width // 64) * 64)
        while self._chunked(start) > self.rows and start < most:
            start *= 2
        points = [start, 2 * start, 4 * start]
        parabola = np.polyfit(points, [self.at(self.rows, t) for t in points], 2)
        fits = [t for t in range(64, most + 1, 64) if np.polyval(parabola, t) <= room]
        return max(fits, default=0)

    def _chunked(self, width: int) -> int:
        """The fewest rows whose logits do not fit in one chunk: from there on bytes grow evenly."""
        return self.subject.update.logit_chunk // max(width - 1, 1) + 1
