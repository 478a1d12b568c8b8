"""Where trajectories lie in rows: every token once, a shared prompt once a row, all numbers those of the plain form."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from envs.base import Verdict
from selfplay.config import Critic, Kl, RoleConfig, Update
from selfplay.layout import lay_out, plan_rows, reach_of, row_bucket, row_width
from selfplay.models import ModelConfig, init_params
from selfplay.models.attention import Reach
from selfplay.models.sharding import make_mesh
from selfplay.packing import Item, minibatches
from selfplay.records import PolicyRef, Trajectory
from selfplay.update import Updater


def trajectory(prompt, own, *, role="solve", logprob=-2.0):
    """A prompt, and the tokens that the policy wrote."""
    mask = np.arange(len(prompt) + len(own)) >= len(prompt)
    return Trajectory(
        role=role,
        policy=PolicyRef("main", 0),
        ids=np.array([*prompt, *own], np.int32),
        mask=mask,
        behaviour_logprobs=np.where(mask, logprob, 0).astype(np.float32),
        turn_starts=(len(prompt),),
        finish=("stop",),
        verdict=Verdict(1.0, "ok"),
        text="",
    )


def test_candidates_lie_with_their_tokens() -> None:
    a, b, c = trajectory([5, 6, 7], [1, 2]), trajectory([5, 6, 7], [3]), trajectory([5, 6, 8], [4])
    a = structs.replace(a, kept=np.array([[1, 9], [2, -1]], np.int32))
    b = structs.replace(b, kept=np.array([[4, 3, 8]], np.int32))
    rows = lay_out([a, b, c], plan_rows([a, b, c], 12, share=True), 1)
    assert rows.kept is not None and rows.kept.shape == (1, 12, 4)
    np.testing.assert_array_equal(rows.kept[0, [2, 3, 4]], [[1, 9, -1, -1], [2, -1, -1, -1], [4, 3, 8, -1]])
    assert (np.delete(rows.kept[0], [2, 3, 4], axis=0) == -1).all()  # c was drawn from the whole vocabulary
    assert lay_out([c], plan_rows([c], 12, share=True), 1).kept is None


def test_first_fit_decreasing_by_hand():
    # 7, 5, 4, 3, 2 columns into rows of 9: 7 + 2, 5 + 4, 3; a prompt of one token is not worth sharing
    plan = plan_rows([trajectory([0], [i] * n) for i, n in enumerate([3, 7, 2, 5, 4])], 9, share=True)
    assert [[f.members for f in row] for row in plan.rows] == [[[1], [2]], [[3], [4]], [[0]]]


def test_shapes_are_few():
    assert [row_bucket(n, 1) for n in (0, 1, 8, 9, 17, 64, 65, 97)] == [8, 8, 8, 16, 32, 64, 96, 128]
    assert [row_bucket(n, 6) for n in (1, 9, 64)] == [12, 18, 66]
    assert [row_width(n, 96) for n in (3, 96, 97, 129)] == [96, 96, 128, 192]


def test_a_shared_prompt_by_hand():
    a, b, c = trajectory([5, 6, 7], [1, 2]), trajectory([5, 6, 7], [3]), trajectory([5, 6, 8], [4])
    rows = lay_out([a, b, c], plan_rows([a, b, c], 12, share=True), 1)
    # prefix 5 6, then 7 1 (2) and 7 (3) behind it; c has another prompt and lies alone
    np.testing.assert_array_equal(rows.ids[0, :9], [5, 6, 7, 1, 7, 5, 6, 8, 0])
    np.testing.assert_array_equal(rows.targets[0, :9], [6, 7, 1, 2, 3, 6, 8, 4, 0])
    np.testing.assert_array_equal(rows.positions[0, :9], [0, 1, 2, 3, 2, 0, 1, 2, 0])
    np.testing.assert_array_equal(rows.segment_ids[0, :9], [1, 1, 2, 2, 3, 4, 4, 4, 0])
    np.testing.assert_array_equal(rows.prefix_ids[0, :9], [1, 1, 1, 1, 1, 4, 4, 4, 0])
    np.testing.assert_array_equal(np.flatnonzero(rows.reg_mask[0]), [2, 3, 4, 7])
    assert [(s.row, s.columns, s.start) for s in rows.spots] == [
        (0, slice(2, 4), 2), (0, slice(4, 5), 2), (0, slice(5, 8), 0),
    ]  # fmt: skip


def test_attempts_cross_no_border_of_chunks_that_they_need_not():
    made = [trajectory([5] * 64, [i] * 64) for i in range(3)]  # a prefix of 63 columns, attempts of 64
    wide = lay_out(made, plan_rows(made, 256, share=True), 1)
    assert [spot.columns for spot in wide.spots] == [slice(64, 128), slice(128, 192), slice(192, 256)]
    assert reach_of(wide.segment_ids, wide.prefix_ids) == Reach(64, 0)
    tight = lay_out(made, plan_rows(made, 255, share=True), 1)  # no column to spare
    assert [spot.columns.start for spot in tight.spots] == [63, 127, 191]
    unlike = [trajectory([5] * 64, [i] * n) for i, n in enumerate((100, 30, 20))]
    rows = lay_out(unlike, plan_rows(unlike, 256, share=True), 1)  # 30 would cross at 192
    assert [spot.columns for spot in rows.spots] == [slice(64, 164), slice(192, 222), slice(222, 242)]


def test_a_family_wider_than_a_row_has_its_prompt_in_each():
    family = [trajectory([5, 6, 7], [i, i]) for i in range(3)]  # 2 + 3 x 2 columns into rows of 7
    plan = plan_rows(family, 7, share=True)
    assert [[(f.shared, f.members) for f in row] for row in plan.rows] == [[(2, [0, 1])], [(2, [2])]]
    rows = lay_out(family, plan, 2)
    assert [s.start for s in rows.spots] == [2, 2, 0] and rows.segment_ids[1].max() == 1  # alone, so whole


def test_roles_do_not_share():
    plan = plan_rows([trajectory([5, 6], [1]), trajectory([5, 6], [1], role="propose")], 16, share=True)
    assert [f.members for f in plan.rows[0]] == [[0], [1]]


prompts = st.lists(st.integers(0, 1), min_size=1, max_size=5)
answers = st.lists(st.integers(2, 9), min_size=1, max_size=6)


@given(st.lists(st.tuples(prompts, answers), min_size=1, max_size=12), st.integers(11, 40), st.booleans())
@settings(max_examples=100, deadline=None)
def test_every_token_is_read_after_those_that_it_had_before(pairs, width, share):
    made = [trajectory(*pair) for pair in pairs]
    plan = plan_rows(made, width, share=share)
    rows = lay_out(made, plan, len(plan.rows))
    taken = np.zeros_like(rows.ids)
    for one, spot in zip(made, rows.spots, strict=True):
        row, last = spot.row, spot.columns.stop - 1
        own, prefix = rows.segment_ids[row, last], rows.prefix_ids[row, last]
        seen = np.isin(rows.segment_ids[row], [own, prefix])
        np.testing.assert_array_equal(rows.ids[row, seen], one.ids[:-1])
        np.testing.assert_array_equal(rows.targets[row, seen], one.ids[1:])
        np.testing.assert_array_equal(rows.positions[row, seen], np.arange(len(one.ids) - 1))
        np.testing.assert_array_equal(spot.read(rows.reg_mask), one.mask)
        taken[row, spot.columns] += 1
    assert taken.max() == 1 and rows.reg_mask.sum() == sum(one.mask.sum() for one in made)
    if not share:
        assert all(spot.start == 0 for spot in rows.spots)


CONFIG = ModelConfig(
    family="gemma3", vocab_size=12, hidden_size=16, layers=2, heads=2, kv_heads=1, head_dim=8, intermediate_size=32,
    sliding_window=6, sliding_layers=(0,),
)  # fmt: skip
ROLES = {"propose": RoleConfig(), "solve": RoleConfig(temperature=2.0)}
EVERY_TERM = Update(
    minibatches=1,
    row_tokens=48,
    micro_rows=0,
    entropy_coef=0.01,
    kl=Kl(place="loss", estimator="k2", coef={"propose": 0.05, "solve": 0.1}),
    critic=Critic(kind="shared"),
)


def attempts(roles, *, prompt, own):
    """A group of five attempts at a prompt for each role, with all that a loss reads.

    prompt: its tokens; own: tokens of an attempt, from and below.
    """
    rng = np.random.default_rng(0)
    made = []
    for group, role in enumerate(roles):
        text = rng.integers(0, 12, prompt)
        for _ in range(5):
            one = trajectory(text, rng.integers(0, 12, rng.integers(*own)), role=role)
            noise = (rng.normal(size=(3, len(one.ids))) * one.mask).astype(np.float32)
            made.append(Item(trajectory=one, advantages=noise[0], group=group, returns=noise[1],
                             reference_logprobs=one.behaviour_logprobs + noise[2]))  # fmt: skip
    return made


@pytest.fixture(scope="module")
def groups():
    return attempts(["solve", "solve", "solve", "propose"], prompt=9, own=(1, 8))


def test_gradients_scores_and_values_are_those_of_the_plain_form(groups):
    params = jax.tree.map(lambda x: x * 8 if x.ndim > 1 else x, init_params(CONFIG, jax.random.key(0)))
    found = {}
    for share in (False, True):
        update = replace(EVERY_TERM, shared_prefix=share)
        updater = Updater(CONFIG, update, ROLES, make_mesh())
        state = updater.init(params)
        state.critic["head"]["kernel"] += 1.0
        (batch,) = minibatches(
            groups, policy="main", planned={"propose": 5, "solve": 15}, roles=ROLES, update=update, seed=0,
            multiple=updater.row_multiple,
        )  # fmt: skip
        found[share] = updater.gradients(state, batch)
        trajectories = [item.trajectory for item in groups]
        found[share] += updater.logprobs(params, trajectories), updater.values(state, trajectories)
        found[share] += ((batch.segment_ids > 0).sum(),)
    alone, together = found[False][-1], found[True][-1]
    assert alone == sum(len(item.trajectory.ids) - 1 for item in groups) and together < 0.8 * alone
    for plain, shared in zip(jax.tree.leaves(found[False][:-1]), jax.tree.leaves(found[True][:-1]), strict=True):
        np.testing.assert_allclose(shared, plain, rtol=0, atol=1e-5 * np.abs(plain).max())
