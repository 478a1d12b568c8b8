"""Moves as a trie of their tokens: what a row that is held to the legal moves may write next, and the draw among it.

A state is a place in the trie, 0 the beginning of a move. Its candidates are the tokens that begin or go on with some
move; where a move is complete, the end token is one too. So no move that is written is cut off, and none is illegal.
Letters: R rows, S states, K candidates of a state, V vocabulary, n tokens of a completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from jaxtyping import Array, Float, Int

from selfplay.config import Template
from selfplay.draw import draw
from selfplay.errors import UserError
from selfplay.losses import among
from selfplay.models.tokenizer import Tokenizer
from selfplay.templates import end_of_turn

NONE = -1
"""In place of a token where a state has fewer candidates than another."""


class Trie(msgspec.Struct, frozen=True):
    """The moves of one turn; a value that crosses process borders."""

    tokens: np.ndarray
    """[S, K] int32: the candidates of every state, then NONE."""
    after: np.ndarray
    """[S, K] int32: the state that each leads to."""

    def kept(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """[n, K] int32: the candidates among which each token of a completion was drawn.

        Raises:
          ValueError: a token is none of them.
        """
        state, rows = 0, []
        for token in np.asarray(ids).tolist():
            candidates = self.tokens[state].tolist()
            if token == NONE or token not in candidates:
                raise ValueError(f"token {token} goes on with no legal move; {candidates} do")
            rows.append(self.tokens[state])
            state = int(self.after[state, candidates.index(token)])
        return np.stack(rows) if rows else np.zeros((0, self.tokens.shape[1]), np.int32)


def grow(moves: Sequence[Sequence[int]], *, end: int, limit: int) -> Trie:
    """The trie of some moves' tokens, of which a completion may have `limit`.

    The end token follows a move where there is room for it; a move that fills the limit ends with it.

    Raises:
      ValueError: a move is empty or longer than the limit, holds the end token, or is there twice.
    """
    states: list[dict[int, int]] = [{}]
    for move in moves:
        if not 0 < len(move) <= limit or end in move:
            raise ValueError(
                f"a move of tokens {list(move)} cannot be written in {limit} tokens before end token {end}"
            )
        state = 0
        for token in [*move, end] if len(move) < limit else move:
            if token not in states[state]:
                states[state][token] = 0 if token == end else len(states)
                states += [{}] * 0 if token == end else [{}]
            state = states[state][token]
    paths = sum(len(s) for s in states) - len(states) + 1  # ends that are no state of their own
    whole = sum(len(move) < limit for move in moves)
    if paths != whole or len({tuple(move) for move in moves}) < len(moves):
        raise ValueError(f"two moves have the same tokens: {[list(move) for move in moves]}")
    shape = len(states), max(1, *(len(s) for s in states))
    tokens, after = np.full(shape, NONE, np.int32), np.zeros(shape, np.int32)
    for state, candidates in enumerate(states):
        tokens[state, : len(candidates)], after[state, : len(candidates)] = list(candidates), list(candidates.values())
    return Trie(tokens, after)


class Spelling:
    """How a policy spells moves: by its tokenizer, and as its template has answers begin and end."""

    def __init__(self, template: Template, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        before = template.assistant.partition("{text}")[0] if template.kind == "text" else ""
        self._lead = before[len(before.rstrip(" ")) :]  # what the prompt leaves to the model
        mark = end_of_turn(template, tokenizer) if template.kind == "chat" else None
        self._end = tokenizer.eos_id if mark is None else tokenizer.special[mark]
        self._tries: dict[tuple[tuple[str, ...], int], Trie] = {}

    def move(self, text: str) -> list[int]:
        """The tokens of a move, without the end token."""
        ids: list[int] = self._tokenizer.encode(self._lead + text).tolist()
        return ids

    def written(self, text: str, *, limit: int) -> list[int]:
        """All that is written with a move: the end token too, where there is room for it."""
        ids = self.move(text)
        return [*ids, self._end] if len(ids) < limit else ids

    def reads(self, text: str) -> bool:
        """Whether the tokens of a move are that move when they are read."""
        return self._tokenizer.decode(self.move(text)).strip() == text.strip()

    def trie(self, legal: Sequence[str], *, limit: int) -> Trie:
        """The trie of the legal moves of a turn.

        Raises:
          UserError: a move does not fit the turn. A run is refused at start then (`room.py`).
        """
        key = tuple(legal), limit
        if key not in self._tries:  # games repeat themselves
            moves = [self.move(text) for text in legal]
            for text, ids in zip(legal, moves, strict=True):
                if len(ids) > limit:
                    field = "roles.play.constrain = legal"
                    raise UserError(f"{field}: move {text!r} takes {len(ids)} tokens, a turn has {limit}")
            self._tries[key] = grow(moves, end=self._end, limit=limit)
        return self._tries[key]


# ---------------------------------------------------------------- many rows


class Allowed(NamedTuple):
    """The tries of some rows, and where each row is in its own."""

    tokens: Int[Array, "R S K"]
    after: Int[Array, "R S K"]
    state: Int[Array, " R"]


def bucket(n: int) -> int:
    """4, 16, 64, ...: few shapes for states and candidates, so that few programs are compiled."""
    size = 4
    while size < n:
        size *= 4
    return size


def tables(tries: Sequence[Trie | None], rows: int) -> Allowed:
    """All rows at the beginning of a move; a row without a trie, or beyond them, has no candidates."""
    sizes = np.array([trie.tokens.shape for trie in tries if trie is not None]).reshape(-1, 2)
    states, candidates = (bucket(int(n)) for n in sizes.max(axis=0, initial=1))
    tokens = np.full((rows, states, candidates), NONE, np.int32)
    after = np.zeros_like(tokens)
    for row, trie in enumerate(tries):
        if trie is not None:
            s, k = trie.tokens.shape
            tokens[row, :s, :k], after[row, :s, :k] = trie.tokens, trie.after
    return Allowed(tokens, after, np.zeros(rows, np.int32))  # type: ignore[arg-type]


def joined(kept: Sequence[np.ndarray]) -> np.ndarray:
    """Candidates of several turns, [n, K] each, as one array [n, K]."""
    out = np.full((sum(map(len, kept)), max(rows.shape[1] for rows in kept)), NONE, np.int32)
    start = 0
    for rows in kept:
        out[start : start + len(rows), : rows.shape[1]] = rows
        start += len(rows)
    return out


def draw_allowed(
    logits: Float[Array, "R V"], uniform: Float[Array, " R"], temperature: Float[Array, ""], allowed: Allowed
) -> tuple[Int[Array, " R"], Float[Array, " R"], Allowed]:
    """One candidate a row, its log-probability in nats among the row's candidates, and where the row is then."""

    def here(table: Int[Array, "R S K"]) -> Int[Array, "R K"]:
        return jnp.take_along_axis(table, allowed.state[:, None, None], axis=1)[:, 0]

    def chosen(of_row: Int[Array, "R K"]) -> Int[Array, " R"]:
        return jnp.take_along_axis(of_row, index[:, None], axis=1)[:, 0]

    candidates = here(allowed.tokens)
    index, logprob = draw(among(logits, candidates), uniform, temperature)
    state: jax.Array = chosen(here(allowed.after))
    return chosen(candidates), logprob, allowed._replace(state=state)
