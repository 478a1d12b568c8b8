"""Attempts at one prompt that have drawn the same tokens so far are decoded as one row, until they part.

Each attempt draws with its own noise from what its row predicts. The row goes on with what the first of them drew; who
drew something else waits until the segment ends, and then gets a row, together with those that drew the same. On a CPU
a step takes as long as it has rows.

While as many decode as the call has attempts, those at one prompt sit side by side, and what they all have read lies
in the cache once (`kv_cache.cut`). Letters: R rows, G attempts at a prompt, N attempts of a call, T tokens of a
segment, L of a completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from selfplay.caches import ROW_BUCKET, SEGMENT, grow, row_buckets, slot_bucket, slots_of, will_stay
from selfplay.devices import Devices
from selfplay.draw import draw
from selfplay.models import decoder
from selfplay.models.config import ModelConfig
from selfplay.models.decoder import Params
from selfplay.models.kv_cache import LANES, Cache, LayerCache, Shared, cut, unshare
from selfplay.models.sharding import by_rows
from selfplay.records import SamplingSpec
from selfplay.written import Written


@dataclass(frozen=True)
class Branch:
    """A row: attempts that have drawn the same."""

    source: int
    """The row in whose cache lies all that they have read and drawn, but for the last token."""
    token: int
    """The last that they have drawn, or read."""
    position: int
    """Of that token."""
    members: tuple[int, ...]
    """The attempts, the first of which leads."""


class Feed(NamedTuple):
    """What a segment takes from the host."""

    asked: np.ndarray
    """[R G] bool: which places of a row have a member that goes on, as far as the host knows."""
    noise: np.ndarray
    """[R G T] uniforms."""
    left: np.ndarray
    """[R] int32: how many tokens each row may still draw."""
    furthest: int
    """The last position that any row has reached."""


class Front(NamedTuple):
    """Where rows stand, on the devices."""

    token: Int[Array, " R"]
    """The last of each row, not in its cache yet."""
    position: Int[Array, " R"]
    """Of that token."""
    here: Bool[Array, "R G"]
    """Which places of a row have a member that goes on, as far as the devices know."""


Drawn: TypeAlias = tuple[Int[Array, "R G T"], Float[Array, "R G T"], Int[Array, "R G"]]
"""Tokens and log-probabilities of a segment, and how many of them each member has drawn."""


class Branches:
    """Decodes what nobody will continue: what it leaves behind is text alone."""

    def __init__(self, devices: Devices, config: ModelConfig, eos_ids: tuple[int, ...], params: Params) -> None:
        self._devices, self._config, self._eos_ids, self._params = devices, config, eos_ids, params
        self.slots_decoded = 0
        """Row steps: rows decoded side by side, times steps."""

    def decode(
        self, cache: Cache, rows: Sequence[Branch], noise: np.ndarray, spec: SamplingSpec, written: Written
    ) -> None:
        """Draw until every attempt has ended.

        Args:
          cache: of the prompts; the caller's no more.
          rows: one a prompt.
          noise: [N L] uniforms, one for every attempt and token.
          written: takes what is drawn.
        """
        parts, room, ended = self._devices.parts, 0, len(noise)
        rooms = row_buckets(len(noise), parts) | ({ROW_BUCKET} if ROW_BUCKET % parts == 0 else set())
        attempts = max(len(row.members) for row in rows)
        common = min(row.position + 1 for row in rows) // LANES[0] * LANES[0]
        shares = common > 0 and len(noise) in rooms and len(noise) // attempts % parts == 0
        width, block = attempts, 0  # G of a segment, and how many seats share what their attempts have read
        longest = max(row.position for row in rows) + spec.max_new_tokens
        ahead: Drawn | None = None
        while rows:
            apart = all(len(row.members) == 1 for row in rows)
            if ahead is None:
                before, room = room, min(room for room in rooms if room >= len(rows))
                if anew := room != before:
                    read = shares and room == len(noise) and min(row.position for row in rows) >= common
                    block = attempts if read else room
                seats = seated(rows, room, block, anew=anew)
                cache = self._anew(cache, seats, block, common) if anew else self._moved(cache, seats)
                width = 1 if apart and room == max(rooms) else attempts  # in smaller rooms for one program less
                front = Front(*self._devices.split(_standing(seats, width)))
                feed = _feed(seats, noise, written, width, begun=0)
                cache, front, drawn = self._segment(cache, front, feed, longest, spec)
            else:  # nobody has moved, as all are apart
                seats, drawn, ahead = seated(rows, room, room, anew=False), ahead, None
            if self._devices.runs_ahead and apart and will_stay(len(rows), ended, room, rooms):
                feed = _feed(seats, noise, written, width, begun=SEGMENT)
                if feed.left.any():
                    cache, front, ahead = self._segment(cache, front, feed, longest, spec)
            tokens, logprobs, counts = self._devices.fetch(drawn)
            self.slots_decoded += room * int(counts.max())
            at, place, member = np.array(
                [(at, place, member) for at, row in enumerate(seats) if row for place, member in enumerate(row.members)]
            ).T
            going = np.zeros(len(noise), bool)
            going[member] = written.add(member, tokens[at, place], logprobs[at, place], counts[at, place])
            ended = member.size - int(going.sum())
            rows = branches_of(seats, tokens, counts, going)

    def _segment(
        self, cache: Cache, front: Front, feed: Feed, longest: int, spec: SamplingSpec
    ) -> tuple[Cache, Front, Drawn]:
        """Begin a segment, with room for it in the cache."""
        reach = min(feed.furthest + SEGMENT, longest)
        if (slots := slot_bucket(reach, longest)) > slots_of(cache):
            cache = grow(cache, slots=slots)
        begun: tuple[Cache, Front, Drawn] = _segment(
            self._config, self._devices.mesh_of(len(feed.left)), self._eos_ids, spec.top_k, spec.top_p, self._params,
            np.float32(spec.temperature), cache, front, feed.asked, feed.noise, feed.left,
        )  # fmt: skip
        return begun

    def _anew(self, cache: Cache, seats: Sequence[Branch | None], block: int, common: int) -> Cache:
        """The cache of all seats, gathered anew; where they lie in blocks, these share the `common` slots."""
        source = np.array([0 if row is None else row.source for row in seats])
        if cache[0].shared is not None:
            cache = _apart(self._devices.mesh_of(len(cache[0].values)), cache)
        if block == len(seats):
            moved: Cache = self._devices.take(cache, source)
            return moved
        first, rest = _cut(cache, common)
        shared, own = self._devices.take(first, source[::block]), self._devices.take(rest, source)
        return [layer._replace(shared=pair) for layer, pair in zip(own, shared, strict=True)]

    def _moved(self, cache: Cache, seats: Sequence[Branch | None]) -> Cache:
        """The cache with every branch in its seat, copied to where it was free."""
        source = np.array([at if row is None else row.source for at, row in enumerate(seats)])
        to = np.flatnonzero(source != np.arange(len(seats)))
        for first in range(0, len(to), ROW_BUCKET):
            some = to[first : first + ROW_BUCKET]
            missing = (0, ROW_BUCKET - len(some))
            rows = np.pad(source[some], missing), np.pad(some, missing, constant_values=len(seats))
            cache = self._devices.rows(_copy(cache, *rows))
        return cache


def branches_of(
    seats: Sequence[Branch | None], tokens: np.ndarray, counts: np.ndarray, going: np.ndarray
) -> list[Branch]:
    """The branches after a segment, of each row the first one first.

    Args:
      tokens: [R G T], what each member has drawn.
      counts: [R G], how many of them count.
      going: [N], which attempts go on.
    """
    found = []
    for at, row in enumerate(seats):
        if row is None:
            continue
        alike: dict[tuple[int, int], list[int]] = {}
        for place, member in enumerate(row.members):
            if going[member]:
                count = int(counts[at, place])
                alike.setdefault((count, int(tokens[at, place, count - 1])), []).append(member)
        for (count, token), members in alike.items():
            found.append(Branch(at, token, row.position + count, tuple(members)))
    return found


def seated(rows: Sequence[Branch], room: int, block: int, *, anew: bool) -> list[Branch | None]:
    """The first branch of a row stays in it, the others go where nobody is.

    Args:
      block: seats of the attempts at each prompt, side by side; all seats = anybody may have any.
      anew: nobody stays.
    """
    seats: list[Branch | None] = [None] * room
    more = []
    for row in rows:
        if not anew and seats[row.source] is None:
            seats[row.source] = row
        else:
            more.append(row)
    free = [iter([at for at in range(first, first + block) if seats[at] is None]) for first in range(0, room, block)]
    for row in more:
        seats[next(free[row.members[0] // block if block < room else 0])] = row
    return seats


def _standing(seats: Sequence[Branch | None], attempts: int) -> tuple[np.ndarray, ...]:
    """The fields of `Front` for the rows of these seats."""
    token, position = np.zeros(len(seats), np.int32), np.zeros(len(seats), np.int32)
    for at, row in enumerate(seats):
        if row is not None:
            token[at], position[at] = row.token, row.position
    return token, position, np.ones((len(seats), attempts), bool)


def _feed(seats: Sequence[Branch | None], noise: np.ndarray, written: Written, attempts: int, begun: int) -> Feed:
    """What a segment of the rows of these seats takes when each has `begun` more tokens than were looked at."""
    left, furthest = np.zeros(len(seats), np.int32), 0
    asked, uniform = np.zeros((len(seats), attempts), bool), np.zeros((len(seats), attempts, SEGMENT), np.float32)
    for at, row in enumerate(seats):
        if row is not None:
            members = list(row.members)
            drawn = int(written.count[members[0]]) + begun
            left[at], furthest = max(written.spec.max_new_tokens - drawn, 0), max(furthest, row.position + begun)
            asked[at, : len(members)] = True
            next_ones = noise[members, drawn : drawn + SEGMENT]
            uniform[at, : len(members), : next_ones.shape[1]] = next_ones
    return Feed(asked, uniform, left, furthest)


@partial(jax.jit, donate_argnums=0)
def _copy(cache: Cache, source: Int[Array, " n"], to: Int[Array, " n"]) -> Cache:
    """Rows of the cache in the places of others; what lies out of range is passed over."""

    def copied(x: jax.Array) -> jax.Array:
        return x.at[to].set(x[source], mode="drop", unique_indices=True)

    return [LayerCache(copied(keys), copied(values), shared) for keys, values, shared in cache]


@partial(jax.jit, static_argnums=1)
def _cut(cache: Cache, slots: int) -> tuple[list[Shared], Cache]:
    """The first slots of the cache, as rows share them, and the rest."""
    first, rest = zip(*(cut(layer, slots) for layer in cache), strict=True)
    return list(first), list(rest)


@partial(jax.jit, static_argnums=0)
def _apart(mesh: Mesh | None, cache: Cache) -> Cache:
    """The cache with all slots in every row."""
    return by_rows(lambda cache: [unshare(layer) for layer in cache], mesh, 0)(cache)


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4), donate_argnums=7)
def _segment(
    config: ModelConfig,
    mesh: Mesh | None,
    eos_ids: tuple[int, ...],
    top_k: int,
    top_p: float,
    params: Params,
    temperature: Float[Array, ""],
    cache: Cache,
    front: Front,
    asked: Bool[Array, "R G"],
    noise: Float[Array, "R G T"],
    left: Int[Array, " R"],
) -> tuple[Cache, Front, Drawn]:
    """Up to T tokens for every member of every row; ends early when as many wait as rows go on, device by device.

    Args:
      mesh: what rows are split over; None = nothing is.
      asked, noise, left: as in `Feed`.
    """

    def run(
        params: Params, temperature: jax.Array, cache: Cache, front: Front, asked: jax.Array, noise: jax.Array,
        left: jax.Array,
    ) -> tuple[Cache, Front, Drawn]:  # fmt: skip
        each = jax.vmap(partial(draw, top_k=top_k, top_p=top_p), in_axes=(None, 1, None), out_axes=1)
        ends = jnp.asarray(eos_ids)

        def going(carry: Any) -> Any:
            i, _, front, waiting, *_ = carry
            return (i < noise.shape[2]) & (front.here.any(1).sum() > waiting)

        def step(carry: Any) -> Any:
            i, cache, (token, position, here), waiting, tokens, logprobs, counts = carry
            hidden, cache = decoder.decode_step(config, params, token, position, cache)
            drawn, logprob = each(decoder.logits(config, params, hidden), noise[:, :, i], temperature)  # [R G]
            lead = jnp.take_along_axis(drawn, here.argmax(1)[:, None], axis=1)  # [R 1], of the first who is here
            tokens, logprobs = tokens.at[:, :, i].set(drawn), logprobs.at[:, :, i].set(logprob)
            parted = here & (drawn != lead) & ~jnp.isin(drawn, ends)
            after = here & (drawn == lead) & ~jnp.isin(lead, ends) & (i + 1 < left)[:, None]
            goes = after.any(1)
            front = Front(jnp.where(goes, lead[:, 0], token), position + goes, after)
            return i + 1, cache, front, waiting + parted.sum(), tokens, logprobs, counts + here

        front = front._replace(here=front.here & asked)
        shapes = (noise.shape, jnp.int32), (noise.shape, jnp.float32), (asked.shape, jnp.int32)
        first = jnp.int32(0), cache, front, jnp.int32(0), *(jnp.zeros(*shape) for shape in shapes)
        _, cache, front, _, tokens, logprobs, counts = jax.lax.while_loop(going, step, first)
        return cache, front, (tokens, logprobs, counts)

    return by_rows(run, mesh, 2)(params, temperature, cache, front, asked, noise, left)
