"""How far tokens of packed rows see: never less than the mask lets them, and every number is that of whole rows."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from selfplay import update as module
from selfplay.layout import lay_out, plan_rows, reach_of
from selfplay.models import forward
from selfplay.models.attention import CHUNK, Reach, attend
from selfplay.models.sharding import make_mesh
from selfplay.packing import minibatches
from selfplay.update import Updater
from tests.models.shapes import GEMMA2, GEMMA3, QWEN3, random_params
from tests.test_layout import EVERY_TERM, ROLES, attempts, trajectory


def row(width, *segments):
    """[1, T] segment and prefix ids of segments (length, prefix), one after the other."""
    own, continued = np.zeros((2, 1, width), np.int32)
    column = 0
    for segment, (length, prefix) in enumerate(segments, start=1):
        own[0, column : column + length], continued[0, column : column + length] = segment, prefix or segment
        column += length
    return own, continued


def test_reach_by_hand():
    # A prompt of 70 columns needs two chunks of 64. An attempt in columns 130 to 254 sees, from the chunk that begins
    # at 192, 62 columns before it: one chunk; up to 256, from there 126: two.
    assert reach_of(*row(640, (70, 0), (60, 1), (125, 1))) == Reach(128, 64)
    assert reach_of(*row(640, (70, 0), (60, 1), (127, 1))) == Reach(128, 128)
    assert reach_of(*row(640, (64, 0), (64, 1), (64, 1))) == Reach(64, 0)
    assert reach_of(*row(640, (30, 0), (90, 0), (60, 2), (20, 1))) == Reach(128, 64)
    assert reach_of(*row(640, (90, 0), (100, 0), (60, 0))) == Reach(0, 64)
    assert reach_of(*row(640, (330, 0))) is None and reach_of(*row(630, (70, 0), (60, 1))) is None
    assert reach_of(*row(640)) == Reach(0, 0)


prompts = st.integers(1, 200)
families = st.lists(st.tuples(prompts, st.lists(st.integers(1, 150), min_size=1, max_size=8)), min_size=1, max_size=5)


@given(families, st.sampled_from([512, 1024, 2048]))
@settings(max_examples=60, deadline=None)
def test_nothing_that_a_token_sees_is_out_of_reach(families, width):
    made = [trajectory([i] * prompt, [7] * own) for i, (prompt, owns) in enumerate(families) for own in owns]
    plan = plan_rows(made, width, share=True)
    rows = lay_out(made, plan, len(plan.rows))
    reach = reach_of(rows.segment_ids, rows.prefix_ids)
    assume(reach is not None)
    assert reach.prefix % CHUNK == reach.before % CHUNK == 0
    own, continued = rows.segment_ids, rows.prefix_ids
    seen = (own[:, :, None] == own[:, None, :]) | (continued[:, :, None] == own[:, None, :])
    seen &= np.tril(np.ones((width, width), bool)) & (own[:, :, None] > 0)
    token, column = np.indices((width, width))
    assert not (seen & (column >= reach.prefix) & (column < token // CHUNK * CHUNK - reach.before)).any()


def test_attention_within_reach_by_hand():
    # The last token of three chunks sees a first column, two of the chunk before and itself, all with score 0.
    t = 3 * CHUNK
    mask = np.eye(t, dtype=bool)[None]
    mask[0, -1, [0, t - 70, t - 66]] = True
    q, k, v = np.zeros((1, t, 1, 1)), np.zeros((1, 1, t, 1)), np.zeros((1, 1, t, 1))
    v[0, 0, [0, t - 70, t - 66, t - 1], 0] = 4, 8, 16, 32
    v[0, 0, t - 2] = 1000
    given = (jnp.asarray(x, jnp.float32) for x in (q, k, v))
    out = attend(*given, jnp.asarray(mask), scale=1.0, reach=Reach(64, 64))
    np.testing.assert_allclose(out[0, -1, 0], [15.0], rtol=1e-6)
    np.testing.assert_allclose(out[0, 0, 0], [4.0], rtol=1e-6)


@pytest.mark.parametrize("config", [QWEN3, GEMMA2, GEMMA3], ids=lambda c: c.family)
@pytest.mark.parametrize("reach", [Reach(64, 64), Reach(0, 192), Reach(128, 64)], ids=str)
def test_hidden_states_are_those_of_whole_rows(config, reach):
    last = (50, 5) if reach.before > 64 else (50, 0)  # a prompt that does not lie first has to be close
    own, continued = row(320, (50, 0), (40, 1), (60, 1), (30, 1), (64, 0), last)
    ids = np.random.default_rng(0).integers(0, config.vocab_size, own.shape).astype(np.int32)
    positions = np.concatenate([np.arange(50), *(50 + np.arange(n) for n in (40, 60, 30)), np.arange(140)])
    positions = np.pad(positions, (0, 320 - len(positions)))[None].astype(np.int32)
    hidden = jax.jit(forward, static_argnums=0, static_argnames="reach")
    given = config, random_params(config), ids, positions, own, continued
    whole, near = hidden(*given), hidden(*given, reach=reach)
    real = own > 0
    np.testing.assert_allclose(near[real], whole[real], rtol=0, atol=2e-5 * float(np.abs(whole[real]).max()))


def test_gradients_scores_and_values_are_those_of_whole_rows(monkeypatch):
    """Groups with prompts of 40 tokens, two to a row of 640."""
    made = attempts(["solve"] * 3, prompt=40, own=(20, 50))
    config = replace(GEMMA3, vocab_size=12)
    update = replace(EVERY_TERM, row_tokens=640, micro_rows=2)
    updater = Updater(config, update, ROLES, make_mesh())
    params = random_params(config)
    found = []
    for forget in (False, True):
        if forget:
            monkeypatch.setattr(module, "reach_of", lambda *_: None)
        state = updater.init(params)
        state.critic["head"]["kernel"] += 1.0
        (batch,) = minibatches(
            made, policy="main", planned={"propose": 0, "solve": 15}, roles=ROLES, update=update, seed=0,
            multiple=updater.row_multiple,
        )  # fmt: skip
        trajectories = [item.trajectory for item in made]
        scores = updater.logprobs(params, trajectories), updater.values(state, trajectories)
        found.append((updater.gradients(state, batch), scores))
        assert reach_of(batch.segment_ids, batch.prefix_ids) == Reach(128, 64)
    for near, whole in zip(jax.tree.leaves(found[0]), jax.tree.leaves(found[1]), strict=True):
        np.testing.assert_allclose(near, whole, rtol=0, atol=1e-5 * np.abs(whole).max())
