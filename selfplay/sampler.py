"""Drawing completions from a policy: the `Sampler` protocol, and the one that runs on this process's own devices.

What comes out of a call is a function of its arguments alone: shapes follow from the number of rows, the longest
prompt and the token limit by fixed rules, each row's noise comes from its own key and position, and rows are
compacted by what the call itself has drawn. Letters: P prompts, R rows, T tokens, S cache slots, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from selfplay import sampler_programs
from selfplay.branches import Branch, Branches
from selfplay.caches import (
    LEAST_SLOTS,
    ROW_BUCKET,
    SEGMENT,
    Rows,
    few_tokens,
    grow,
    merge,
    pad,
    pad_rows,
    prompt_bucket,
    row_buckets,
    slot_bucket,
    slots_of,
    up,
    will_stay,
)
from selfplay.devices import Devices
from selfplay.draw import uniforms
from selfplay.models.config import ModelConfig
from selfplay.models.decoder import Params
from selfplay.models.kv_cache import Cache, empty_cache
from selfplay.models.lora import join, no_adapter, split
from selfplay.models.tokenizer import Tokenizer
from selfplay.records import PolicyRef, SamplingSpec
from selfplay.trie import Trie, tables
from selfplay.waiting import Waiting
from selfplay.written import Completion, Written

Texts: TypeAlias = Sequence[np.ndarray | None]
"""Token ids, one a prompt or row; None = a hole, or a row that sits out."""

Tries: TypeAlias = Sequence[Trie | None] | None
"""All that each row may write next, one a row, and one wherever something is asked; None = anything, in all of them."""


class Context(Protocol):
    """What rows have read and written so far, ready to be continued; a value, so it may be continued twice."""

    @property
    def ids(self) -> tuple[np.ndarray, ...]:
        """Per row, every token of the context: [n] int32."""
        ...


class Sampler(Protocol):
    """Where completions come from. tests/sampler_contract.py says what an implementation must satisfy."""

    def load(self, ref: PolicyRef, params: Params) -> None:
        """Make a version of a policy usable; several may be live. With LoRA all but the first are adapters to it."""
        ...

    def drop(self, ref: PolicyRef) -> None:
        """Forget a version."""
        ...

    def start(
        self,
        ref: PolicyRef,
        prompts: Texts,
        keys: np.ndarray,
        spec: SamplingSpec,
        *,
        attempts: int = 1,
        allowed: Tries = None,
    ) -> tuple[list[Completion], Context]:
        """Read each prompt once and draw `attempts` completions of it.

        Args:
          prompts: [P] token ids; None is a hole: its rows stay, empty.
          keys: [P * attempts, 2] uint32, one a row; row = prompt * attempts + attempt.
        """
        ...

    def extend(
        self, context: Context, appended: Texts, keys: np.ndarray, spec: SamplingSpec, *, allowed: Tries = None
    ) -> tuple[list[Completion], Context]:
        """Append tokens to every row of a context and draw on; a None row sits out and keeps its context."""
        ...

    def complete(
        self, ref: PolicyRef, prompts: Texts, keys: np.ndarray, spec: SamplingSpec, *, attempts: int = 1
    ) -> list[Completion]:
        """What `start` draws, of rows that nobody will continue."""
        ...


class Drawn(NamedTuple):
    """What a segment draws, on the devices."""

    tokens: Int[Array, "R T"]
    logprobs: Float[Array, "R T"]
    steps: int
    """How many of them count, in rows that do not end."""


@dataclass(frozen=True)
class LocalContext:
    """A context of `LocalSampler`."""

    ref: PolicyRef
    ids: tuple[np.ndarray, ...]
    pieces: tuple[tuple[Cache, np.ndarray], ...]
    """Caches and the row that each of their rows is; a row counts where it occurs last."""


class LocalSampler:
    """One prefill, then compiled segments of decoding over the live rows.

    On this process's first device, or on a mesh: weights lie as the learner's do, and rows with their caches are split.
    On a mesh of several processes all of them must make the same calls (`joint_sampler.py`).
    """

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer, mesh: Mesh | None = None) -> None:
        self.config, self._devices = config, Devices(mesh)
        self.tokenizer = tokenizer
        self.eos_ids = tuple(sorted({*config.eos_ids, tokenizer.eos_id}))
        self._params: dict[PolicyRef, Params] = {}
        self._base: Params = {}
        self.slots_decoded = 0
        """Row steps of the last call: rows decoded side by side, times steps; what is drawn over it is occupancy."""

    def load(self, ref: PolicyRef, params: Params) -> None:
        """Keep a version of the weights on the devices; where they lie there already they are shared.

        They are arguments of the compiled programs, so nothing is recompiled. Where the model has an adapter, the first
        version is the base, all weights, and the later ones are adapters to it.
        """
        placed = self._devices.params(dict(params))
        if self.config.lora is not None:
            adapter, base = split(placed)
            self._base = base or self._base
            placed = join(self._base, adapter or self._devices.params(no_adapter(self.config)))
        self._params[ref] = placed

    def drop(self, ref: PolicyRef) -> None:
        """Forget a version."""
        self._of(ref)
        del self._params[ref]

    def start(
        self,
        ref: PolicyRef,
        prompts: Texts,
        keys: np.ndarray,
        spec: SamplingSpec,
        *,
        attempts: int = 1,
        allowed: Tries = None,
    ) -> tuple[list[Completion], Context]:
        """Prefill each prompt once, repeat its cache rows `attempts` times, and decode.

        Holes alone cost nothing: rows that `extend` then begins with what they read first.
        """
        texts, asked = _asked(prompts, attempts)
        rows = self._check(len(asked), keys, spec, allowed)
        if not asked.any():
            nobody = tuple([_NOTHING] * len(asked))
            return [_HOLE] * len(asked), LocalContext(ref, nobody, ((self._empty(ref, rows), np.arange(rows)),))
        of_row = _prompt_of(rows, texts, attempts)
        position = np.array([text.size for text in texts], np.int32)[of_row]
        noise = self._noise(keys, position, spec)
        hidden, cache = self._prefilled(ref, texts, spec)
        if attempts > 1 or rows != len(hidden):  # else every row is where it is to be
            hidden, cache = self._devices.take((hidden, cache), of_row)
        contexts = [text for text in texts for _ in range(attempts)]
        return self._decode(ref, contexts, asked, self._first(ref, hidden, position, noise, cache, allowed, spec), spec)

    def complete(
        self, ref: PolicyRef, prompts: Texts, keys: np.ndarray, spec: SamplingSpec, *, attempts: int = 1
    ) -> list[Completion]:
        """Prefill each prompt once, and decode attempts at it as one row until they part.

        An accelerator takes about as long for few rows as for many, and a CPU for up to ROW_BUCKET: these decode as
        `start` does, and so does what is to have only so many slots.
        """
        texts, asked = _asked(prompts, attempts)
        few = attempts == 1 or len(asked) <= ROW_BUCKET
        if few or spec.slots or not asked.any() or jax.default_backend() != "cpu":
            return self.start(ref, prompts, keys, spec, attempts=attempts)[0]
        rows = self._check(len(asked), keys, spec, None)
        position = np.array([text.size for text in texts], np.int32)[_prompt_of(rows, texts, attempts)]
        noise = self._devices.fetch(self._noise(keys, position, spec))
        _, cache = self._prefilled(ref, texts, spec)
        branches = Branches(self._devices, self.config, self.eos_ids, self._of(ref))
        written = Written(len(asked), spec, self.tokenizer, self.eos_ids)
        first = [
            Branch(row, int(text[-1]), text.size - 1, tuple(range(row * attempts, (row + 1) * attempts)))
            for row, text in enumerate(texts)
            if text.size
        ]
        branches.decode(cache, first, noise[: len(asked)], spec, written)
        self.slots_decoded = branches.slots_decoded
        return written.completions(asked)

    def extend(
        self, context: Context, appended: Texts, keys: np.ndarray, spec: SamplingSpec, *, allowed: Tries = None
    ) -> tuple[list[Completion], Context]:
        """Read the appended tokens into the cached rows and decode on.

        Each row's last token is read again before them, so that a row can also go on with nothing appended. Where many
        sit out, only the others are computed.
        """
        if not isinstance(context, LocalContext):
            raise TypeError(f"LocalSampler continues its own contexts, got {type(context).__name__}")
        if len(appended) != len(context.ids):
            raise ValueError(f"extend needs one entry a row: {len(context.ids)} rows, got {len(appended)}")
        rows = self._check(len(appended), keys, spec, allowed)
        new = [_NOTHING if a is None else np.asarray(a, np.int32) for a in appended]
        contexts = [np.concatenate(pair) for pair in zip(context.ids, new, strict=True)]
        asked = np.array([a is not None and c.size > 0 for a, c in zip(appended, contexts, strict=True)])
        going = np.flatnonzero(asked)
        if not going.size:
            return [_HOLE] * len(asked), context
        width = self._width([contexts[row] for row in going], spec)
        slots = max(slot_bucket(width), *(slots_of(cache) for cache, _ in context.pieces))
        cache, params = self._devices.rows(merge(context.pieces, slots)), self._of(context.ref)
        room = min(b for b in {rows} | row_buckets(rows, self._devices.parts) if b >= going.size)
        if room == rows:
            going = np.arange(len(new))
        part = cache if room == rows else self._devices.take(cache, np.resize(going, room))
        texts = [contexts[row][-1 - new[row].size :] for row in going]
        read, count = pad(texts, room, few_tokens(max((t.size for t in texts), default=1)))
        _, position = pad([contexts[row] for row in going], room)
        start, mesh = np.maximum(position - count, 0), self._devices.mesh_of(room)
        noise = self._noise(keys[going], position, spec)
        hidden, part = sampler_programs.append(self.config, mesh, params, self._devices.rows(read), count, start, part)
        moves = None if allowed is None else [allowed[row] for row in going.tolist()]
        begun = self._first(context.ref, hidden, position, noise, part, moves, spec)
        done, continued = self._decode(context.ref, [contexts[row] for row in going], asked[going], begun, spec)
        if room == rows:
            return done, continued
        return self._beside(context.ref, cache, contexts, going, done, continued)

    def _beside(
        self,
        ref: PolicyRef,
        cache: Cache,
        contexts: Sequence[np.ndarray],
        going: np.ndarray,
        done: Sequence[Completion],
        continued: LocalContext,
    ) -> tuple[list[Completion], LocalContext]:
        """All rows of a context of which only those `going` were continued: the others wait in the cache as it was."""
        completions = [_HOLE] * len(contexts)
        ids, lost = list(contexts), np.iinfo(np.int32).max
        for row, completion, whole in zip(going, done, continued.ids, strict=True):
            completions[row], ids[row] = completion, whole
        homes = np.concatenate([going, [lost]]).astype(np.int64)
        pieces = [(part, homes[np.minimum(home, len(going))]) for part, home in continued.pieces]
        return completions, LocalContext(ref, tuple(ids), ((cache, np.arange(len(contexts))), *pieces))

    def _decode(
        self, ref: PolicyRef, contexts: list[np.ndarray], asked: np.ndarray, begun: tuple[Rows, Drawn],
        spec: SamplingSpec,
    ) -> tuple[list[Completion], LocalContext]:  # fmt: skip
        """Segments of decoding; between two, those that wait take the places of rows that stopped, or the live ones
        move into a smaller bucket; and the cache grows for the next segment, as attention reads all of its slots. Where
        no row will move, the next segment is handed over before anybody has looked at this one."""
        state, drawn = begun
        written = Written(len(asked), spec, self.tokenizer, self.eos_ids)
        home = np.arange(len(state.position))  # the row that each decoding row is; len(asked) and above = filler
        alive = np.resize(asked, len(home)) & (home < len(asked))
        longest, self.slots_decoded, ended = max(c.size for c in contexts), 0, len(home)
        places, pieces = up(spec.slots, ROW_BUCKET) or len(home), []
        waiting: Waiting | None = None
        ahead: Drawn | None = None
        if self._devices.runs_ahead and places >= len(home) and spec.max_new_tokens > 1:
            state, ahead = self._segment(ref, state, alive, np.ones(len(home), np.int32), longest, spec)
        alive = self._looked_at(written, drawn, home, alive)
        if places < len(home) and alive.any():
            waiting = Waiting(self._devices, state, np.flatnonzero(alive), places)
            state, home, alive = waiting.first()
        rooms = row_buckets(places, self._devices.parts)
        while alive.any():
            at = np.where(alive, written.count[np.minimum(home, len(asked) - 1)], 0).astype(np.int32)
            if ahead is None:
                state, drawn = self._segment(ref, state, alive, at, longest, spec)
            else:
                drawn, ahead = ahead, None
            after = np.where(alive, at + drawn.steps, 0)
            more = self._devices.runs_ahead and waiting is None and after.max() < spec.max_new_tokens
            if more and will_stay(alive.sum(), ended, len(home), rooms):
                state, ahead = self._segment(ref, state, alive, after, longest, spec)
            before, alive = alive, self._looked_at(written, drawn, home, alive)
            ended = before.sum() - alive.sum()
            if waiting is not None and waiting.rows.size and not alive.all():
                state = self._devices.rows(waiting.refill(state, home, alive))
                continue
            room = min(b for b in rooms if b >= alive.sum())
            if ahead is None and alive.any() and room < len(home):
                pieces.append((state.cache, home))
                keep = np.resize(np.flatnonzero(alive), room)
                alive = np.arange(room) < alive.sum()
                state, home = self._devices.take(state, keep), np.where(alive, home[keep], len(asked))
        completions = written.completions(asked)
        ids = tuple(np.concatenate([c, w.ids]) for c, w in zip(contexts, completions, strict=True))
        if waiting is not None:  # what left its place lies with those that waited
            pieces = [(waiting.store.cache, np.arange(len(waiting.store.position))), *pieces]
        return completions, LocalContext(ref, ids, (*pieces, (state.cache, home)))

    def _looked_at(self, written: Written, drawn: Drawn, home: np.ndarray, alive: np.ndarray) -> np.ndarray:
        """Note what live rows have drawn; which of them go on."""
        tokens, logprobs = self._devices.fetch((drawn.tokens, drawn.logprobs))
        self.slots_decoded += len(home) * drawn.steps
        rows, going = np.flatnonzero(alive), np.zeros(len(home), bool)
        going[rows] = written.add(home[rows], tokens[rows], logprobs[rows], np.full(rows.size, drawn.steps))
        return going

    def _first(
        self, ref: PolicyRef, hidden: jax.Array, position: np.ndarray, noise: Float[Array, "R T"], cache: Cache,
        allowed: Tries, spec: SamplingSpec,
    ) -> tuple[Rows, Drawn]:  # fmt: skip
        """Draw the first token of rows that have read what they are to read: a token's cache is made when it is read,
        so that the last one of a row, or the only one, needs no forward pass."""
        moves = None if allowed is None else self._devices.split(tables(allowed, len(position)))
        token, alive, moves, logprob = sampler_programs.first(
            self.config, self._devices.mesh_of(len(position)), self.eos_ids, spec.top_k, spec.top_p, self._of(ref),
            np.float32(spec.temperature), self._devices.rows(hidden), noise, moves,
        )  # fmt: skip
        state: Rows = self._devices.rows(Rows(token, self._devices.split(position), noise, alive, cache, moves))
        return state, Drawn(token[:, None], logprob[:, None], 1)

    def _segment(
        self, ref: PolicyRef, state: Rows, alive: np.ndarray, at: np.ndarray, longest: int, spec: SamplingSpec
    ) -> tuple[Rows, Drawn]:
        """Begin a segment of rows that have drawn `at` tokens, with room in the cache for all of them but the last."""
        steps = min(SEGMENT, spec.max_new_tokens - int(at[alive].min()))
        most = longest + spec.max_new_tokens - 1
        if (slots := slot_bucket(min(longest + int(at.max()) + steps - 1, most), most)) > slots_of(state.cache):
            state = state._replace(cache=grow(state.cache, slots=slots))
        state, (tokens, logprobs) = sampler_programs.segment(
            self.config, self._devices.mesh_of(len(alive)), self.eos_ids, spec.top_k, spec.top_p, self._of(ref),
            state, alive, at, steps, spec.max_new_tokens, np.float32(spec.temperature),
        )  # fmt: skip
        return state, Drawn(tokens, logprobs, steps)

    def _prefilled(self, ref: PolicyRef, texts: list[np.ndarray], spec: SamplingSpec) -> tuple[jax.Array, Cache]:
        """Hidden states of the prompts' last tokens, and their cache with room for a segment: a bucket of rows."""
        width, longest = self._width(texts, spec), max(text.size for text in texts)
        reach = longest - 1 + min(SEGMENT, spec.max_new_tokens)
        slots = slot_bucket(max(width, reach), longest + spec.max_new_tokens - 1)
        ids, lengths = pad(texts, prompt_bucket(len(texts)), width)
        read = sampler_programs.prefill(self.config, self._of(ref), self._devices.rows(ids), lengths, slots=slots)
        placed: tuple[jax.Array, Cache] = self._devices.rows(read)
        return placed

    def _noise(self, keys: np.ndarray, position: np.ndarray, spec: SamplingSpec) -> Float[Array, "R T"]:
        """The noise of rows that draw from these positions on. Asked for before texts are read: a CPU would make it
        wait until they are."""
        placed = self._devices.split((pad_rows(keys, len(position)), position))
        noise: Float[Array, "R T"] = uniforms(*placed, length=up(spec.max_new_tokens))
        return noise

    def _empty(self, ref: PolicyRef, rows: int) -> Cache:
        """A cache in which nothing was read yet."""
        empty = empty_cache(self.config, rows, LEAST_SLOTS, self._of(ref)["embed"].dtype)
        cache: Cache = self._devices.split(empty)
        return cache

    def _of(self, ref: PolicyRef) -> Params:
        if ref not in self._params:
            live = ", ".join(f"{r.policy}@{r.version}" for r in self._params) or "none"
            raise ValueError(f"policy {ref.policy}@{ref.version} is not loaded (loaded: {live})")
        return self._params[ref]

    def _check(self, rows: int, keys: np.ndarray, spec: SamplingSpec, allowed: Tries) -> int:
        """The padded number of rows of a call."""
        if keys.shape != (rows, 2) or not rows:
            raise ValueError(f"keys must be [{rows}, 2], one a row, got {list(keys.shape)}")
        negative = min(spec.temperature, spec.top_k, spec.slots) < 0
        if spec.max_new_tokens < 1 or negative or not 0 < spec.top_p <= 1:
            raise ValueError(f"sampling out of range: {spec}")
        if allowed is not None and (len(allowed) != rows or spec.top_k or spec.top_p < 1):
            raise ValueError(f"tries are one a row, {rows}, without top_k and top_p; got {len(allowed)} and {spec}")
        return up(rows, ROW_BUCKET)

    def _width(self, contexts: Sequence[np.ndarray], spec: SamplingSpec) -> int:
        """The bucket of the longest context, which must leave room for the new tokens."""
        longest = max(c.size for c in contexts)
        if longest + spec.max_new_tokens > self.config.max_positions:
            raise ValueError(
                f"{longest} context tokens + {spec.max_new_tokens} new ones exceed the model's"
                f" {self.config.max_positions} positions"
            )
        return few_tokens(max(longest, 1))


def _asked(prompts: Texts, attempts: int) -> tuple[list[np.ndarray], np.ndarray]:
    """The prompts, a hole as nothing, and of which rows something is asked."""
    if any(p is not None and not len(p) for p in prompts):
        raise ValueError("a prompt must hold at least one token; None is a hole")
    texts = [_NOTHING if p is None else np.asarray(p, np.int32) for p in prompts]
    return texts, np.array([p is not None for p in prompts]).repeat(attempts)


def _prompt_of(rows: int, texts: Sequence[np.ndarray], attempts: int) -> np.ndarray:
    """The prompt of each row, filler included."""
    return np.minimum(np.arange(rows) // attempts, len(texts) - 1)


_NOTHING = np.zeros(0, np.int32)
_HOLE = Completion(_NOTHING, np.zeros(0, np.float32), "abandoned")
