"""What every `Sampler` must satisfy; a test of an implementation calls these with one of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from selfplay.records import PolicyRef, SamplingSpec
from selfplay.sampler import Sampler
from selfplay.streams import Stream, row_keys
from selfplay.written import Completion

Fresh = Callable[[np.ndarray, int, SamplingSpec], np.ndarray]
"""(whole context, number of drawn tokens at its end, spec) -> their log-probabilities by a fresh forward."""

REF = PolicyRef("main", 0)


def keys(rows: int, step: int = 0) -> np.ndarray:
    return row_keys(7, Stream.SOLVE, 0, step, 0, rows)


def prompts(count: int, seed: int = 0) -> list[np.ndarray | None]:
    rng = np.random.default_rng(seed)
    return [rng.integers(4, 100, rng.integers(1, 14)).astype(np.int32) for _ in range(count)]


def same(a: Sequence[Completion], b: Sequence[Completion]) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(x.ids, y.ids) and np.array_equal(x.logprobs, y.logprobs) and x.finish == y.finish
        for x, y in zip(a, b, strict=True)
    )


def logprobs_equal_a_fresh_forward(sampler: Sampler, fresh: Fresh, spec: SamplingSpec) -> None:
    given = prompts(5)
    done, context = sampler.start(REF, given, keys(10), spec, attempts=2)
    for row, completion in enumerate(done):
        assert completion.ids.dtype == np.int32 and completion.logprobs.dtype == np.float32
        np.testing.assert_array_equal(context.ids[row], np.concatenate([given[row // 2], completion.ids]))
        expected = fresh(context.ids[row], completion.ids.size, spec)
        np.testing.assert_allclose(completion.logprobs, expected, atol=1e-4)


def a_continued_context_equals_a_fresh_forward(sampler: Sampler, fresh: Fresh, spec: SamplingSpec) -> None:
    given = prompts(4)
    given[1] = None
    _, context = sampler.start(REF, given, keys(8), spec, attempts=2)
    appended = prompts(8, seed=1)
    appended[0], appended[5] = None, np.zeros(0, np.int32)
    first = sampler.extend(context, appended, keys(8, step=1), spec)
    done, longer = first
    assert done[0].ids.size == 0 and done[0].finish == "abandoned"
    np.testing.assert_array_equal(longer.ids[0], context.ids[0])
    done2, longest = sampler.extend(longer, prompts(8, seed=2), keys(8, step=2), spec)
    for completions, held in ((done, longer), (done2, longest)):
        for row, completion in enumerate(completions):
            expected = fresh(held.ids[row], completion.ids.size, spec)
            np.testing.assert_allclose(completion.logprobs, expected, atol=1e-4)
    assert all(c.ids.size for c in done2)
    assert same(sampler.extend(context, appended, keys(8, step=1), spec)[0], done)  # a context is a value


def same_arguments_same_bits(sampler: Sampler, spec: SamplingSpec) -> None:
    a, _ = sampler.start(REF, prompts(6), keys(12), spec, attempts=2)
    b, _ = sampler.start(REF, prompts(6), keys(12), spec, attempts=2)
    assert same(a, b)
    c, _ = sampler.start(REF, prompts(6), keys(12, step=1), spec, attempts=2)
    assert not same(a, c)


def a_row_does_not_see_its_neighbours(sampler: Sampler, spec: SamplingSpec) -> None:
    given, others = prompts(6), prompts(6, seed=5)
    others[2] = given[2]
    a, _ = sampler.start(REF, given, keys(6), spec)
    b, _ = sampler.start(REF, others, keys(6), spec)
    np.testing.assert_array_equal(a[2].ids, b[2].ids)
    np.testing.assert_allclose(a[2].logprobs, b[2].logprobs, atol=1e-5)


def holes_stay_in_place(sampler: Sampler, spec: SamplingSpec) -> None:
    given = prompts(5)
    full, _ = sampler.start(REF, given, keys(15), spec, attempts=3)
    holed, context = sampler.start(REF, [None, *given[1:3], None, given[4]], keys(15), spec, attempts=3)
    for row in (*range(3), *range(9, 12)):
        assert holed[row].ids.size == 0 and holed[row].logprobs.size == 0 and holed[row].finish == "abandoned"
        assert context.ids[row].size == 0
    for row in (*range(3, 9), *range(12, 15)):
        np.testing.assert_array_equal(holed[row].ids, full[row].ids)
    nothing, _ = sampler.start(REF, [None, None], keys(2), spec)
    assert [c.finish for c in nothing] == ["abandoned"] * 2


def completing_draws_what_starting_draws(sampler: Sampler, fresh: Fresh, spec: SamplingSpec) -> None:
    given = prompts(8)
    given[3] = None
    started, _ = sampler.start(REF, given, keys(32), spec, attempts=4)
    done = sampler.complete(REF, given, keys(32), spec, attempts=4)
    for row, (completion, other) in enumerate(zip(done, started, strict=True)):
        assert completion.finish == other.finish
        np.testing.assert_array_equal(completion.ids, other.ids)
        np.testing.assert_allclose(completion.logprobs, other.logprobs, atol=1e-5)
        if (prompt := given[row // 4]) is not None and spec.temperature:
            expected = fresh(np.concatenate([prompt, completion.ids]), completion.ids.size, spec)
            np.testing.assert_allclose(completion.logprobs, expected, atol=1e-4)
    assert same(sampler.complete(REF, given, keys(32), spec, attempts=4), done)


def versions_live_side_by_side(sampler: Sampler, other: object, spec: SamplingSpec) -> None:
    """`other` = parameters of unlike values, for version 1."""
    second = PolicyRef("main", 1)
    sampler.load(second, other)  # type: ignore[arg-type]
    a, context = sampler.start(REF, prompts(3), keys(3), spec)
    b, _ = sampler.start(second, prompts(3), keys(3), spec)
    assert not same(a, b)
    sampler.drop(second)
    with pytest.raises(ValueError, match="main@1 is not loaded"):
        sampler.start(second, prompts(3), keys(3), spec)
    assert same(sampler.start(REF, prompts(3), keys(3), spec)[0], a)
