"""Moves as a trie of their tokens: what may be written, by hand and for any moves, and the draw among it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfplay.config import Template
from selfplay.errors import UserError
from selfplay.joint_sampler import Continue
from selfplay.losses import among
from selfplay.models import printable_ascii
from selfplay.records import SamplingSpec, decode, encode
from selfplay.trie import Spelling, Trie, bucket, draw_allowed, grow, joined, tables

END = 2


def test_moves_of_one_token_by_hand() -> None:
    alone = grow([[5], [6]], end=END, limit=1)
    np.testing.assert_array_equal(alone.kept([6]), [[5, 6]])  # the turn ends with it
    ended = grow([[5], [6]], end=END, limit=2)
    np.testing.assert_array_equal(ended.kept([6, END]), [[5, 6], [END, -1]])


def test_moves_of_several_tokens_by_hand() -> None:
    # 7 | 7 5 | 7 5 8 | 9 in three tokens: after 7 the move may be over, after 7 5 too, and 7 5 8 fills the turn.
    trie = grow([[7], [7, 5], [7, 5, 8], [9]], end=END, limit=3)
    np.testing.assert_array_equal(trie.kept([7, END]), [[7, 9], [END, 5]])
    np.testing.assert_array_equal(trie.kept([7, 5, END]), [[7, 9], [END, 5], [END, 8]])
    np.testing.assert_array_equal(trie.kept([7, 5, 8]), [[7, 9], [END, 5], [END, 8]])
    np.testing.assert_array_equal(trie.kept([9, END]), [[7, 9], [END, -1]])
    for wrong in ([5], [7, 9], [-1], [9, END, END, 5]):
        with pytest.raises(ValueError, match="goes on with no legal move"):
            trie.kept(wrong)


@pytest.mark.parametrize("moves", [[[]], [[5, 6, 7]], [[5, END]], [[5], [5]], [[5, 6], [5, 6], [5]]])
def test_what_is_no_set_of_moves(moves: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="cannot be written in 2 tokens|same tokens"):
        grow(moves, end=END, limit=2)


@given(
    st.sets(st.lists(st.integers(3, 7), min_size=1, max_size=4).map(tuple), min_size=1, max_size=12), st.integers(4, 6)
)
def test_what_may_be_written_is_the_moves_and_nothing_else(moves: set[tuple[int, ...]], limit: int) -> None:
    """Drawn with all candidates alike, the moves have probability 1 together."""
    trie, total = grow(sorted(moves), end=END, limit=limit), 0.0
    for move in moves:
        kept = trie.kept([*move, END] if len(move) < limit else move)
        assert len(kept) == min(len(move) + 1, limit)
        total += 1 / np.prod((kept >= 0).sum(1))
    assert total == pytest.approx(1)


def test_a_template_says_how_a_move_begins() -> None:
    tokenizer = printable_ascii()
    for template, text in ((Template(), "[b]"), (Template(kind="text"), " [b]")):
        spelling = Spelling(template, tokenizer)
        assert tokenizer.decode(spelling.move("[b]")) == text and spelling.reads("[b]")
        assert spelling.written("[b]", limit=9) == [*spelling.move("[b]"), tokenizer.eos_id]
        assert spelling.written("[b]", limit=len(text)) == spelling.move("[b]")
        assert not spelling.reads("\N{SNOWMAN}")
        with pytest.raises(UserError, match="move .....? takes [34] tokens, a turn has 2$"):
            spelling.trie(["[b]"], limit=2)


def test_the_draw_among_candidates_by_hand() -> None:
    # Row 0: tokens 5 and 6 with logits 1 and 0 at temperature 1/2: p = e^2 / (e^2 + 1) = .881. Row 1: 3 alone.
    logits = jnp.zeros((3, 8)).at[0, 5].set(1.0).at[0, 7].set(9.0)
    tries = [grow([[5], [6, 4]], end=END, limit=2), grow([[3]], end=END, limit=1)]
    allowed = tables(tries, 3)
    assert allowed.tokens.shape == (3, 4, 4)
    for noise, token, p in ((0.5, 5, 0.8808), (0.9, 6, 0.1192)):
        drawn, logprobs, after = draw_allowed(logits, jnp.full(3, noise), jnp.float32(0.5), allowed)
        assert drawn[:2].tolist() == [token, 3] and drawn[2] == -1  # row 2 has nothing to write: nobody reads it
        np.testing.assert_allclose(np.exp(logprobs[:2]), [p, 1.0], atol=1e-4)
        then, _, _ = draw_allowed(logits, jnp.full(3, noise), jnp.float32(0.5), after)
        assert then[0] == (END if token == 5 else 4)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True), st.integers(0, 99))
def test_among_is_the_distribution_given_the_candidates(kept: list[int], seed: int) -> None:
    z = np.random.default_rng(seed).normal(size=(1, 10)) * 4
    found = jax.nn.softmax(among(jnp.asarray(z), jnp.asarray([kept + [-1] * (4 - len(kept))])))[0]
    whole = np.exp(z[0]) / np.exp(z[0]).sum()
    np.testing.assert_allclose(found[: len(kept)], whole[kept] / whole[kept].sum(), rtol=1e-4)
    assert not found[len(kept) :].any()


def test_shapes_are_few_and_tries_travel() -> None:
    assert [bucket(n) for n in (1, 4, 5, 16, 17)] == [4, 4, 16, 16, 64]
    np.testing.assert_array_equal(joined([np.array([[1, 2]]), np.array([[3]])]), [[1, 2], [3, -1]])
    trie = grow([[5], [6]], end=END, limit=2)
    call = Continue(
        1, [None, np.array([4])], np.zeros((2, 2), np.uint32), SamplingSpec(max_new_tokens=2), 2, [None, trie]
    )
    none, same = decode(encode(call), Continue).allowed or ()
    assert none is None and isinstance(same, Trie)
    np.testing.assert_array_equal(same.tokens, trie.tokens)
    np.testing.assert_array_equal(same.after, trie.after)
