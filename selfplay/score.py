"""The log-probability that a model gives to every token of some texts."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from selfplay import losses
from selfplay.errors import SelfplayError, UserError
from selfplay.models import Cache, ModelConfig, Params, decoder, load, logits
from selfplay.models.config import read_config
from selfplay.models.hf import locate
from selfplay.models.kv_cache import empty_cache
from selfplay.trie import NONE, bucket

LOGIT_ENTRIES = 2**26
"""Logits that exist at a time: 256 MiB."""
LEAST_SLOTS = 16


def score_command(model: str, file: Path, *, dtype: str = "float32") -> Iterator[str]:
    """One JSON object for every line of the file; all lines are checked before the weights are read.

    Raises:
      UserError: the file cannot be read, or a line is no JSON string, cannot be encoded, or is too long.
    """
    folder = locate(model)
    config = read_config(folder)
    ids = encode(read_texts(file), folder, config, file)
    opened = load(folder, dtype=jnp.dtype(dtype))
    for row, found in zip(ids, score(opened.config, opened.params, ids), strict=True):
        if not np.isfinite(found).all():
            raise SelfplayError(f"{folder}: the model gives log-probabilities that are not finite")
        first = [None] if row.size else []
        yield json.dumps({"ids": row.tolist(), "logprobs": [*first, *map(float, found)]})


def read_texts(file: Path) -> list[str]:
    """The texts of a file with one JSON string a line."""
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from error
    texts = []
    for number, line in enumerate(lines[:-1] if not lines[-1] else lines, start=1):
        try:
            text = json.loads(line.decode("utf-8"))
        except ValueError as error:
            raise UserError(f"{file}, line {number}: expected a JSON string ({error})") from error
        if not isinstance(text, str):
            raise UserError(f"{file}, line {number}: expected a JSON string, found {type(text).__name__}")
        if any("\ud800" <= c <= "\udfff" for c in text):
            raise UserError(f"{file}, line {number}: half a surrogate pair is no text")
        texts.append(text)
    return texts


def encode(texts: Sequence[str], folder: Path, config: ModelConfig, file: Path) -> list[np.ndarray]:
    """Ids of every text, as transformers' own tokenizer of the folder gives them, special tokens included."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that there is no torch
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: transformers does not open its tokenizer ({error})") from error
    rows = []
    for number, text in enumerate(texts, start=1):
        ids = np.asarray(tokenizer(text, verbose=False).input_ids, np.int32)  # what is too long, we say
        if ids.size > config.max_positions:
            raise UserError(
                f"{file}, line {number}: {ids.size} tokens, but the model has {config.max_positions} positions"
            )
        if ids.size and ids.max() >= config.vocab_size:
            raise UserError(
                f"{file}, line {number}: token {ids.max()} is beyond the model's vocabulary of {config.vocab_size}"
            )
        rows.append(ids)
    return rows


def score(
    config: ModelConfig,
    params: Params,
    ids: Sequence[np.ndarray],
    *,
    temperature: float = 1.0,
    kept: Sequence[np.ndarray] | None = None,
) -> list[np.ndarray]:
    """log p of every token after the first, given those before it, nats: n - 1 of them for n ids.

    Texts of like length go together, and a few positions at a time over a cache, so that neither the logits nor the
    attention scores of whole texts ever exist.

    Args:
      kept: [m, K] of each text: the candidates, -1 = none, over which the log p of its last m tokens is.
    """
    candidates = bucket(max(k.shape[1] for k in kept)) if kept else 0
    together = defaultdict(list)
    for i, row in enumerate(ids):
        if row.size > 1:
            together[_slots(row.size - 1)].append(i)
    found = [np.zeros(0, np.float32) for _ in ids]
    for slots, members in sorted(together.items()):
        chunk = min(slots, _power_of_two(LOGIT_ENTRIES // config.vocab_size))
        rows = min(_power_of_two(max(1, LOGIT_ENTRIES // config.vocab_size // chunk)), _slots(len(members), least=1))
        for start in range(0, len(members), rows):
            batch = members[start : start + rows]
            among = None if not kept else _placed(ids, kept, batch, (rows, slots, candidates))
            scored = _score_rows(config, params, [ids[i] for i in batch], among, rows, slots, chunk, temperature)
            for i, row in zip(batch, scored, strict=False):
                found[i] = row[: ids[i].size - 1]
    return found


def _placed(
    ids: Sequence[np.ndarray], kept: Sequence[np.ndarray], batch: Sequence[int], shape: tuple[int, int, int]
) -> np.ndarray:
    """The candidates [rows, slots, K] of each text's next tokens; none where all of the vocabulary counts."""
    among = np.full(shape, NONE, np.int32)
    for row, i in enumerate(batch):
        (own, width), end = kept[i].shape, ids[i].size - 1
        among[row, end - own : end, :width] = kept[i]
    return among


def _score_rows(
    config: ModelConfig,
    params: Params,
    texts: Sequence[np.ndarray],
    among: np.ndarray | None,
    rows: int,
    slots: int,
    chunk: int,
    temperature: float,
) -> np.ndarray:
    """log p [rows, slots] of each text's next tokens, `chunk` positions at a time; beyond its end they mean nothing."""
    read, wanted = np.zeros((2, rows, slots), np.int32)
    for row, text in enumerate(texts):
        read[row, : text.size - 1], wanted[row, : text.size - 1] = text[:-1], text[1:]
    cache = empty_cache(config, rows, slots, params["embed"].dtype)
    parts = []
    for start in range(0, slots, chunk):
        piece = slice(start, start + chunk)
        begin = np.full(rows, start, np.int32)
        only = None if among is None else among[:, piece]
        given = read[:, piece], wanted[:, piece], begin, cache, np.float32(temperature), only
        part, cache = _chunk(config, params, *given)
        parts.append(np.asarray(part))
    return np.concatenate(parts, axis=1)


@partial(jax.jit, static_argnums=0, donate_argnums=5)
def _chunk(
    config: ModelConfig,
    params: Params,
    ids: Int[Array, "B T"],
    wanted: Int[Array, "B T"],
    start: Int[Array, " B"],
    cache: Cache,
    temperature: Float[Array, ""],
    kept: Int[Array, "B T K"] | None,
) -> tuple[Float[Array, "B T"], Cache]:
    hidden, cache = decoder.extend(config, params, ids, start, cache)
    z = logits(config, params, hidden) / temperature  # [B T V]
    chosen = jnp.take_along_axis(z, wanted[..., None], axis=-1)[..., 0]
    whole = jax.nn.logsumexp(z, axis=-1)
    if kept is not None:
        whole = jnp.where(kept[..., 0] >= 0, jax.nn.logsumexp(losses.among(z, kept), axis=-1), whole)
    return chosen - whole, cache


def _slots(tokens: int, *, least: int = LEAST_SLOTS) -> int:
    """The bucket of so many tokens: powers of two, so that few programs are compiled."""
    return max(least, 1 << (tokens - 1).bit_length())


def _power_of_two(n: int) -> int:
    """The largest one that is not above n."""
    return 1 << (max(1, n).bit_length() - 1)
