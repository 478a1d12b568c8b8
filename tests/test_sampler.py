from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

import selfplay.sampler as sampler_module
from selfplay import branches as branches_module
from selfplay import sampler_programs
from selfplay.branches import Branch, branches_of, seated
from selfplay.caches import prompt_bucket, slot_bucket, slots_of, will_stay
from selfplay.draw import BLOCK, LARGE_VOCAB, draw, running_sums
from selfplay.models import forward, logits, printable_ascii
from selfplay.models.sharding import make_mesh
from selfplay.records import PolicyRef, SamplingSpec
from selfplay.sampler import LocalSampler
from selfplay.trie import grow
from tests import sampler_contract as contract
from tests.models.shapes import QWEN3, random_params
from tests.sampler_contract import REF, keys, prompts

CONFIG = replace(QWEN3, eos_ids=(2, *range(30, 40)), kv_heads=1)
"""Eleven tokens end a completion, so that rows end at very different times."""

SPEC = SamplingSpec(max_new_tokens=32, temperature=2.0)
PLAIN = SamplingSpec(max_new_tokens=32)


@pytest.fixture(scope="module")
def params():
    tree = random_params(CONFIG)
    return tree | {"norm": {"weight": tree["norm"]["weight"] * 0.5}}  # flatter, so that every token has a chance


@pytest.fixture(scope="module")
def sampler(params):
    made = LocalSampler(CONFIG, printable_ascii())
    made.load(REF, params)
    return made


@pytest.fixture(scope="module")
def fresh(params):
    """Log-probabilities by one whole forward, restricted as the spec says, in plain NumPy."""
    whole = jax.jit(lambda ids, at, seg: logits(CONFIG, params, forward(CONFIG, params, ids, at, seg)))

    def logprobs(ids, n, spec):
        row = np.zeros((1, 128), np.int32)
        row[0, : ids.size] = ids
        scores = np.asarray(whole(row, np.arange(128)[None], (np.arange(128) < ids.size)[None].astype(int)))[0]
        return np.array([_restricted(scores[i - 1], spec)[ids[i]] for i in range(ids.size - n, ids.size)])

    return logprobs


def _restricted(scores, spec):
    scaled = scores.astype(np.float64) / spec.temperature
    order = np.argsort(-scaled, kind="stable")[: spec.top_k or None]
    p = np.exp(scaled[order] - scaled[order].max())
    p /= p.sum()
    kept = order[np.cumsum(p) - p < spec.top_p]
    logp = np.full(scores.shape, -np.inf)
    logp[kept] = scaled[kept] - np.log(np.exp(scaled[kept]).sum())
    return logp


@pytest.mark.parametrize(
    "spec",
    [PLAIN, SPEC, SamplingSpec(max_new_tokens=32, temperature=0.7, top_k=9, top_p=0.8)],
    ids=["plain", "hot", "restricted"],
)
def test_logprobs_equal_a_fresh_forward(sampler, fresh, spec):
    contract.logprobs_equal_a_fresh_forward(sampler, fresh, spec)


@pytest.mark.parametrize("tokens", [1, SPEC.max_new_tokens])
def test_a_continued_context_equals_a_fresh_forward(tokens, sampler, fresh):
    contract.a_continued_context_equals_a_fresh_forward(sampler, fresh, structs.replace(SPEC, max_new_tokens=tokens))


def test_same_arguments_same_bits(sampler):
    contract.same_arguments_same_bits(sampler, SPEC)


def test_a_row_does_not_see_its_neighbours(sampler):
    contract.a_row_does_not_see_its_neighbours(sampler, SPEC)


def test_holes_stay_in_place(sampler):
    contract.holes_stay_in_place(sampler, SPEC)


@pytest.mark.parametrize(
    "spec",
    [
        PLAIN,
        SPEC,
        SamplingSpec(max_new_tokens=45, temperature=0.2),
        SamplingSpec(max_new_tokens=40, temperature=0.4, top_k=9, top_p=0.8),
        SamplingSpec(max_new_tokens=32, temperature=0.3, stop=tuple("abcdefgh")),
        SamplingSpec(max_new_tokens=32, temperature=0.0),
        SamplingSpec(max_new_tokens=1, temperature=0.2),
        SamplingSpec(max_new_tokens=32, temperature=0.3, slots=16),
    ],
    ids=["plain", "hot", "cold", "restricted", "stopped", "greedy", "one", "recycled"],
)
def test_completing_draws_what_starting_draws(sampler, fresh, spec):
    contract.completing_draws_what_starting_draws(sampler, fresh, spec)


@pytest.mark.parametrize("attempts", [1, 8])
@pytest.mark.parametrize(
    "spec",
    [SPEC, SamplingSpec(max_new_tokens=45, temperature=0.7), SamplingSpec(max_new_tokens=40, stop=tuple("abcdefgh"))],
    ids=["hot", "odd", "stopped"],
)
def test_segments_handed_over_early_draw_the_same(sampler, monkeypatch, spec, attempts):
    def drawn(early):
        for module in (sampler_module, branches_module):
            monkeypatch.setattr(module, "will_stay", lambda *_: early)
        done, context = sampler.start(REF, prompts(16), keys(16), spec)
        more, _ = sampler.extend(context, [np.array([7], np.int32)] * 16, keys(16, step=1), spec)
        return [*done, *more, *sampler.complete(REF, prompts(4), keys(4 * attempts), spec, attempts=attempts)]

    for late, early in zip(drawn(False), drawn(True), strict=True):
        np.testing.assert_array_equal(late.ids, early.ids)
        np.testing.assert_allclose(late.logprobs, early.logprobs, atol=1e-5)
        assert late.finish == early.finish


def test_a_segment_waits_to_be_handed_over_where_rows_may_move():
    rooms = {8, 16, 32}
    assert [will_stay(alive, 0, 32, rooms) for alive in (32, 17, 16)] == [True, True, False]
    assert [will_stay(24, ended, 32, rooms) for ended in (3, 4)] == [True, False]
    assert [will_stay(alive, 1, 8, rooms) for alive in (8, 3, 2)] == [True, True, False]  # nothing is smaller


@pytest.mark.parametrize("shape", [None, (2, 1, 1)])
def test_attempts_at_long_prompts_read_what_they_share_once(shape, params, fresh, monkeypatch):
    """Blocks of their prompts lie once while most are under way, and in every row again when many have ended."""
    calls = []
    for name in ("_cut", "_apart"):
        true = getattr(branches_module, name)
        spy = lambda *args, name=name, true=true: calls.append(name) or true(*args)  # noqa: E731
        monkeypatch.setattr(branches_module, name, spy)
    mesh = None if shape is None else make_mesh(*shape)
    on, spec = LocalSampler(CONFIG, printable_ascii(), mesh), SamplingSpec(max_new_tokens=48)
    on.load(REF, params)
    given = [np.random.default_rng(i).integers(4, 30, 65 + 4 * i).astype(np.int32) for i in range(4)]
    drawn = on.complete(REF, given, keys(32), spec, attempts=8)
    assert calls == ["_cut", "_apart"]
    apart, _ = on.start(REF, given, keys(32), spec, attempts=8)
    for row, (completion, other) in enumerate(zip(drawn, apart, strict=True)):
        np.testing.assert_array_equal(completion.ids, other.ids)
        expected = fresh(np.concatenate([given[row // 8], completion.ids]), completion.ids.size, spec)
        np.testing.assert_allclose(completion.logprobs, expected, atol=1e-4)


def test_attempts_whose_prompt_ends_with_a_block_draw_the_same(params):
    # Over three devices all 24 seats are there at once, when the token to be read first is the last of that block.
    on = LocalSampler(CONFIG, printable_ascii(), make_mesh(3))
    on.load(REF, params)
    given = [np.random.default_rng(i).integers(4, 30, 64).astype(np.int32) for i in range(12)]
    drawn = on.complete(REF, given, keys(24), PLAIN, attempts=2)
    for one, other in zip(drawn, on.start(REF, given, keys(24), PLAIN, attempts=2)[0], strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-5)


def test_seats_by_hand():
    # Row 0 has parted into three; the branch of row 2 is of the second prompt.
    rows = [Branch(0, 5, 9, (0, 3)), Branch(0, 6, 9, (1,)), Branch(0, 7, 9, (2,)), Branch(2, 5, 9, (5,))]
    assert [row and row.members[0] for row in seated(rows, 4, 4, anew=False)] == [0, 1, 5, 2]
    assert [row and row.members[0] for row in seated(rows, 8, 8, anew=True)] == [0, 1, 2, 5, None, None, None, None]
    by_prompt = seated(rows, 8, 4, anew=True)
    assert [row and row.members[0] for row in by_prompt] == [0, 1, 2, None, 5, None, None, None]
    parted = [Branch(0, 5, 9, (0,)), Branch(0, 6, 9, (3,)), Branch(4, 5, 9, (5,)), Branch(4, 7, 9, (4,))]
    assert [row and row.members[0] for row in seated(parted, 8, 4, anew=False)] == [0, 3, None, None, 5, 4, None, None]


def test_attempts_that_agree_are_decoded_once(sampler):
    def decoded(spec):
        done = sampler.complete(REF, prompts(8), keys(64), spec, attempts=8)
        return done, sampler.slots_decoded

    greedy, once = decoded(SamplingSpec(max_new_tokens=24, temperature=0.0))
    assert all(same_text(greedy[8 * i : 8 * i + 8]) for i in range(8)) and once == 8 * max(c.ids.size for c in greedy)
    cold, shared = decoded(SamplingSpec(max_new_tokens=24, temperature=0.003))
    sampler.start(REF, prompts(8), keys(64), SamplingSpec(max_new_tokens=24, temperature=0.003), attempts=8)
    assert not all(same_text(cold[8 * i : 8 * i + 8]) for i in range(8)) and shared < 0.6 * sampler.slots_decoded
    _, apart = decoded(structs.replace(SPEC, max_new_tokens=24))
    sampler.start(REF, prompts(8), keys(64), structs.replace(SPEC, max_new_tokens=24), attempts=8)
    assert apart <= 1.2 * sampler.slots_decoded  # they part at once, and nothing is lost by that


def same_text(completions):
    return len({tuple(c.ids) for c in completions}) == 1


def test_a_cache_is_no_wider_than_a_call_can_come_to_need():
    assert [slot_bucket(n) for n in (1, 64, 65, 128, 200)] == [64, 64, 128, 128, 256]
    assert [slot_bucket(n, 192) for n in (64, 100, 129, 192)] == [64, 128, 192, 192]
    assert [slot_bucket(n, 193) for n in (129, 193)] == [256, 256] and slot_bucket(40, 48) == 64


def test_branches_by_hand():
    # Row 0 leads 5 6 7: member 1 agrees, 2 parts with 9 at the second token, 3 too, 4 parts with 8 and has ended.
    # Row 1 had one member, which has ended. Row 2 is nobody's.
    rows = [Branch(0, 3, 10, (0, 1, 2, 3, 4)), Branch(1, 3, 12, (5,)), None]
    tokens = np.zeros((3, 5, 3), np.int32)
    tokens[0] = [[5, 6, 7], [5, 6, 7], [5, 9, 0], [5, 9, 1], [8, 0, 0]]
    counts = np.array([[3, 3, 2, 2, 1], [2, 0, 0, 0, 0], [0] * 5])
    going = np.array([True, True, True, True, False, False])
    assert branches_of(rows, tokens, counts, going) == [Branch(0, 7, 13, (0, 1)), Branch(0, 9, 12, (2, 3))]


def test_versions_live_side_by_side(sampler):
    contract.versions_live_side_by_side(sampler, random_params(CONFIG, seed=5), SPEC)


def test_compacted_rows_equal_a_fresh_forward(sampler, fresh):
    # 32 rows of very unlike length: the call must shrink, and what is drawn afterwards must still be right.
    done, context = sampler.start(REF, prompts(8), keys(32), SPEC, attempts=4)
    assert len(context.pieces) >= 2
    lengths = [c.ids.size for c in done]
    assert min(lengths) <= 8 < max(lengths)
    for row in np.argsort(lengths)[-4:]:
        np.testing.assert_allclose(done[row].logprobs, fresh(context.ids[row], lengths[row], SPEC), atol=1e-4)
    longer, held = sampler.extend(context, prompts(32, seed=3), keys(32, step=1), SPEC)
    for row in np.argsort(lengths)[[0, 1, -2, -1]]:
        np.testing.assert_allclose(longer[row].logprobs, fresh(held.ids[row], longer[row].ids.size, SPEC), atol=1e-4)


def test_rows_that_wait_for_a_place_are_drawn_as_side_by_side(sampler, fresh):
    # 8 places for 28 rows and 4 holes: rows come one after the other, and so does what is continued.
    given = [*prompts(5), None, *prompts(2, seed=9)]
    few = structs.replace(SPEC, slots=8)
    done, context = sampler.start(REF, given, keys(32), few, attempts=4)
    assert sum(c.ids.size for c in done) / sampler.slots_decoded > 0.4
    alone, kept = sampler.start(REF, given, keys(32), SPEC, attempts=4)
    more = [np.array([7, 8], np.int32)] * 32
    again, held = sampler.extend(context, more, keys(32, step=1), few)
    for one, other in ((done, alone), (again, sampler.extend(kept, more, keys(32, step=1), SPEC)[0])):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a.ids, b.ids)
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)
            assert a.finish == b.finish
    for row in (0, 17, 31):
        np.testing.assert_allclose(again[row].logprobs, fresh(held.ids[row], again[row].ids.size, SPEC), atol=1e-4)
    assert contract.same(sampler.start(REF, given, keys(32), few, attempts=4)[0], done)


def test_a_cache_that_grows_equals_a_fresh_forward(params, fresh):
    # Rows of 10 to 110 tokens: short ones leave while the cache has 64 slots, long ones go on in 128.
    config = replace(CONFIG, eos_ids=(2, 30, 31, 32))
    growing = LocalSampler(config, printable_ascii())
    growing.load(REF, params)
    spec = SamplingSpec(max_new_tokens=96, temperature=2.0)
    done, context = growing.start(REF, prompts(8), keys(32), spec, attempts=4)
    assert {slots_of(cache) for cache, _ in context.pieces} == {64, 128}
    sizes = [ids.size for ids in context.ids]
    assert min(sizes) < 64 < max(sizes)
    for row in np.argsort(sizes)[[0, 1, 2, -3, -2, -1]]:
        np.testing.assert_allclose(done[row].logprobs, fresh(context.ids[row], done[row].ids.size, spec), atol=1e-4)
    few = SamplingSpec(max_new_tokens=4, temperature=2.0)
    longer, held = growing.extend(context, prompts(32, seed=3), keys(32, step=1), few)  # pieces of both sizes
    checked = [row for row in range(32) if longer[row].ids.size and held.ids[row].size <= 128]
    assert min(sizes[row] for row in checked) < 64 < max(sizes[row] for row in checked)
    for row in checked[::4]:
        np.testing.assert_allclose(longer[row].logprobs, fresh(held.ids[row], longer[row].ids.size, few), atol=1e-4)


def test_an_end_token_ends_a_row_and_is_kept(sampler):
    done, _ = sampler.start(REF, prompts(8), keys(32), SPEC, attempts=4)
    ends = np.array(CONFIG.eos_ids)
    assert {c.finish for c in done} <= {"eos", "length"} and any(c.finish == "eos" for c in done)
    for c in done:
        assert not np.isin(c.ids[:-1], ends).any()
        assert np.isin(c.ids[-1], ends) == (c.finish == "eos")
        assert c.finish == "eos" or c.ids.size == SPEC.max_new_tokens


def test_a_stop_text_cuts_right_after_the_token_that_completes_it(sampler):
    free, _ = sampler.start(REF, prompts(8), keys(32), SPEC, attempts=4)
    text = sampler.tokenizer.decode(max(free, key=lambda c: c.ids.size).ids)
    stop = text[10:12]
    spec = SamplingSpec(max_new_tokens=32, temperature=2.0, stop=(stop, "never written"))
    cut, context = sampler.start(REF, prompts(8), keys(32), spec, attempts=4)
    assert any(c.finish == "stop" for c in cut)
    for c, f, ids in zip(cut, free, context.ids, strict=True):
        np.testing.assert_array_equal(c.ids, f.ids[: c.ids.size])
        assert (c.finish == "stop") == (stop in sampler.tokenizer.decode(f.ids))
        if c.finish == "stop":
            assert sampler.tokenizer.decode(c.ids).endswith(stop)
            assert stop not in sampler.tokenizer.decode(c.ids[:-1])
        assert ids.size >= c.ids.size and c.logprobs.size == c.ids.size


def test_temperature_zero_is_the_likeliest_token(sampler, fresh):
    spec = SamplingSpec(max_new_tokens=8, temperature=0.0)
    a, context = sampler.start(REF, prompts(3), keys(3), spec)
    b, _ = sampler.start(REF, prompts(3), keys(3, step=1), spec)
    assert contract.same(a, b)
    only_the_likeliest = SamplingSpec(max_new_tokens=8, top_k=1)  # log-probability 0, any other token -inf
    for completion, ids in zip(a, context.ids, strict=True):
        np.testing.assert_array_equal(completion.logprobs, 0.0)
        np.testing.assert_array_equal(fresh(ids, completion.ids.size, only_the_likeliest), 0.0)


@pytest.mark.parametrize(("prompts", "read"), [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8), (9, 16)])
def test_how_many_rows_are_read_for_so_many_prompts(prompts, read):
    assert prompt_bucket(prompts) == read


@pytest.mark.parametrize("count", [1, 2])
def test_a_few_prompts_equal_a_fresh_forward(count, sampler, fresh):
    drawn, context = sampler.start(REF, prompts(count), keys(count * 4), PLAIN, attempts=4)
    for completion, ids in zip(drawn, context.ids, strict=True):
        expected = fresh(ids, completion.ids.size, PLAIN)
        np.testing.assert_allclose(completion.logprobs, expected, atol=1e-4)


def test_new_weights_recompile_nothing(sampler):
    sampler.start(REF, prompts(3), keys(3), SPEC)
    before = sampler_programs.segment._cache_size(), sampler_programs.prefill._cache_size()
    other = PolicyRef("main", 9)
    sampler.load(other, random_params(CONFIG, seed=9))
    hot = SamplingSpec(max_new_tokens=32, temperature=1.5)
    sampler.start(other, prompts(3), keys(3), hot)
    sampler.drop(other)
    assert (sampler_programs.segment._cache_size(), sampler_programs.prefill._cache_size()) == before


def test_bad_calls_are_refused(sampler):
    with pytest.raises(ValueError, match=r"keys must be \[4, 2\]"):
        sampler.start(REF, prompts(2), keys(2), SPEC, attempts=2)
    with pytest.raises(ValueError, match="exceed the model's 128 positions"):
        sampler.start(REF, [np.full(100, 5, np.int32)], keys(1), SPEC)
    with pytest.raises(ValueError, match="at least one token"):
        sampler.start(REF, [np.zeros(0, np.int32)], keys(1), SPEC)
    with pytest.raises(ValueError, match="out of range"):
        sampler.start(REF, prompts(1), keys(1), SamplingSpec(max_new_tokens=4, top_p=0.0))


def test_draw_by_hand():
    # p = 1/8, 1/2, 3/8: the cumulative borders are .125, .625 and 1.
    scores = jnp.log(jnp.array([[1.0, 4.0, 3.0]] * 5))
    token, logprob = draw(scores, jnp.array([0.0, 0.124, 0.126, 0.624, 0.999]), 1.0)
    assert token.tolist() == [0, 0, 1, 1, 2]
    np.testing.assert_allclose(logprob, np.log([1 / 8, 1 / 8, 1 / 2, 1 / 2, 3 / 8]), rtol=1e-5)
    # Temperature 1/2 squares the weights 1, 4, 3: p = 1/26, 16/26, 9/26.
    _, logprob = draw(scores, jnp.full(5, 0.5), 0.5)
    np.testing.assert_allclose(logprob, np.log([16 / 26] * 5), rtol=1e-5)


def test_draw_restricted_by_hand():
    scores = jnp.log(jnp.array([[1.0, 4.0, 3.0]] * 2))
    u = jnp.array([0.0, 0.99])
    token, logprob = draw(scores, u, 1.0, top_k=2)  # 4/7, 3/7
    assert token.tolist() == [1, 2]
    np.testing.assert_allclose(logprob, np.log([4 / 7, 3 / 7]), rtol=1e-5)
    token, logprob = draw(scores, u, 1.0, top_p=0.5)  # the first token alone holds half
    assert token.tolist() == [1, 1]
    np.testing.assert_allclose(logprob, 0.0, atol=1e-6)
    token, _ = draw(scores, u, 1.0, top_p=0.51)
    assert token.tolist() == [1, 2]


def test_draw_never_takes_a_token_without_mass():
    scores = jnp.tile(jnp.array([[-jnp.inf, 0.0, -jnp.inf, 0.0, -jnp.inf]]), (3, 1))
    token, logprob = draw(scores, jnp.array([0.0, 0.5, 1 - 2**-23]), 1.0)
    assert token.tolist() == [1, 3, 3]
    np.testing.assert_allclose(logprob, np.log(0.5), rtol=1e-6)


@pytest.mark.parametrize("size", [1, 15, 16, 17, 98, 512, 2049])
def test_running_sums_are_those_of_numpy(size):
    x = jax.random.uniform(jax.random.key(size), (3, 2, size))
    np.testing.assert_allclose(running_sums(x), np.cumsum(np.asarray(x, np.float64), axis=-1), rtol=3e-7)


@given(st.integers(1, 700), st.integers(0, 2**20))
@settings(max_examples=60, deadline=None)
def test_the_largest_noise_draws_a_token_with_mass(size, seed):
    # Running sums are rounded each in an order of its own, and those behind the last mass may be the largest.
    scores = 4 * jax.random.normal(jax.random.key(seed), (8, 700))
    scores = jnp.where(jnp.arange(700) < size, scores, -jnp.inf)
    token, logprob = draw(scores, jnp.full(8, 1 - 2**-24, jnp.float32), 1.0)
    assert (token < size).all() and jnp.isfinite(logprob).all()


def test_draw_frequencies_follow_the_distribution():
    scores = jnp.tile(jax.random.normal(jax.random.key(0), (1, 12)), (20000, 1))
    token, _ = draw(scores, jax.random.uniform(jax.random.key(1), (20000,)), 1.3)
    expected = np.asarray(jax.nn.softmax(scores[0] / 1.3))
    seen = np.bincount(token, minlength=12) / 20000
    np.testing.assert_allclose(seen, expected, atol=4 * np.sqrt(0.25 / 20000))


def test_draw_by_blocks_by_hand():
    # Mass 1/8, 1/2 and 3/8 at the two ends of the second block and in the last, which padding fills up.
    places = [BLOCK, 2 * BLOCK - 1, LARGE_VOCAB + 4]
    scores = jnp.full((6, LARGE_VOCAB + 5), -jnp.inf).at[:, jnp.array(places)].set(jnp.log(jnp.array([1.0, 4.0, 3.0])))
    token, logprob = draw(scores, jnp.array([0.0, 0.124, 0.126, 0.624, 0.626, 1 - 2**-23]), 1.0)
    assert token.tolist() == [places[i] for i in (0, 0, 1, 1, 2, 2)]
    np.testing.assert_allclose(logprob, np.log([1 / 8, 1 / 8, 1 / 2, 1 / 2, 3 / 8, 3 / 8]), rtol=1e-5)
    token, logprob = draw(scores, jnp.linspace(0.0, 0.9, 6), 0.0)  # the likeliest, whatever the noise
    assert token.tolist() == [places[1]] * 6
    assert logprob.tolist() == [0.0] * 6


@pytest.mark.parametrize("size", [LARGE_VOCAB, LARGE_VOCAB + 77])
def test_draw_by_blocks_inverts_the_same_cumulative_sum(size):
    scores = jnp.tile(3 * jax.random.normal(jax.random.key(0), (1, size)), (500, 1))
    uniform = jax.random.uniform(jax.random.key(1), (500,))
    token, logprob = draw(scores, uniform, 0.7)
    p = np.exp(np.asarray(scores[0], np.float64) / 0.7)
    cdf = np.cumsum(p / p.sum())
    after, before = cdf[token], cdf[token] - p[token] / p.sum()
    assert ((before - 2e-6 <= uniform) & (uniform <= after + 2e-6)).all()  # the border's grain, in float32
    assert (np.asarray(token) == np.searchsorted(cdf, uniform, side="right")).mean() > 0.97
    np.testing.assert_allclose(logprob, np.log(p[token] / p.sum()), atol=2e-5)


@pytest.mark.parametrize("shape", [{"fsdp": 2, "tensor": 2}, {"data": 2, "fsdp": 2}])
def test_on_a_mesh_the_same_tokens_are_drawn(shape, params, sampler):
    mesh = make_mesh(**shape)
    spread = LocalSampler(CONFIG, printable_ascii(), mesh)
    spread.load(REF, params)
    held = spread._params[REF]["layers"]["0"]["mlp"]["up"]["weight"]
    assert held.addressable_shards[0].data.size * 4 // shape.get("data", 1) == held.size  # weights are split
    done, context = spread.start(REF, prompts(2), keys(8), SPEC, attempts=4)
    cached = context.pieces[0][0][0][0]
    assert cached.addressable_shards[0].data.size < cached.size  # and so is the cache
    alone, kept = sampler.start(REF, prompts(2), keys(8), SPEC, attempts=4)
    more = prompts(8, seed=3), keys(8, step=1), SPEC
    many = REF, prompts(4), keys(16), SamplingSpec(max_new_tokens=24, temperature=0.3)
    drawn = [on.complete(*many, attempts=4) for on in (spread, sampler)]
    for one, other in (drawn, (done, alone), (spread.extend(context, *more)[0], sampler.extend(kept, *more)[0])):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a.ids, b.ids)
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-4)


def test_rows_held_to_moves_equal_a_fresh_forward_among_the_candidates(sampler, fresh):
    # Rows with moves of one to three tokens each, some alike; 8 places for 16 rows; then a context is continued.
    rng, spec = np.random.default_rng(3), SamplingSpec(max_new_tokens=3, temperature=0.7)
    tries = [
        grow(sorted({tuple(rng.integers(40, 44, rng.integers(1, 4)).tolist()) for _ in range(9)}), end=2, limit=3)
        for _ in range(16)
    ]

    def check(done, held):
        for completion, trie in zip(done, tries, strict=True):
            trie.kept(completion.ids)  # raises where something else was written
        for row in (1, 6, 11):
            completion, trie = done[row], tries[row]
            kept, n = trie.kept(completion.ids), completion.ids.size
            alone = [fresh_among(held.ids[row][: held.ids[row].size - n + i + 1], k) for i, k in enumerate(kept)]
            np.testing.assert_allclose(completion.logprobs, alone, atol=1e-5)

    def fresh_among(ids, kept):
        z = np.array([fresh(np.append(ids[:-1], k), 1, spec)[0] for k in kept[kept >= 0]])
        return z[kept[kept >= 0] == ids[-1]][0] - np.log(np.exp(z).sum())

    given = prompts(16)
    done, context = sampler.start(REF, given, keys(16), spec, allowed=tries)
    check(done, context)
    assert {c.finish for c in done} == {"eos", "length"} and len({tuple(c.ids) for c in done}) > 8
    few = structs.replace(spec, slots=8)
    more: list = prompts(16, seed=1)
    more[0] = more[5] = None
    for other in (spec, few):
        longer, held = sampler.extend(context, more, keys(16, step=1), other, allowed=tries)
        assert longer[0].finish == "abandoned"
        check(longer, held)
    with pytest.raises(ValueError, match="tries are one a row, 16, without top_k"):
        sampler.start(REF, given, keys(16), structs.replace(spec, top_k=3), allowed=tries)
