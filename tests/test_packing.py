"""Packing: every token once, groups whole, and denominators that do not know about rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from envs.base import Verdict
from selfplay.config import Critic, Denominator, Kl, RoleConfig, Update
from selfplay.packing import Item, distinct, minibatches
from selfplay.records import ROLES, PolicyRef, Trajectory

DEFAULT = {"propose": RoleConfig(), "solve": RoleConfig(loss_weight=0.5)}


def trajectory(length, own, *, role="solve", policy="main", first=1, trainable=True):
    """`length` tokens first, first + 1, ..., of which the last `own` are the policy's."""
    mask = np.arange(length) >= length - own
    return Trajectory(
        role=role,
        policy=PolicyRef(policy, 0),
        trainable=trainable,
        mask=mask,
        ids=np.arange(first, first + length, dtype=np.int32),
        behaviour_logprobs=np.where(mask, -1.0, 0.0).astype(np.float32),
        turn_starts=(length - own,),
        finish=("stop",),
        verdict=Verdict(1.0, "ok"),
        text="",
    )


def item(length, own, *, group=0, advantage=1.0, role="solve", **kwargs):
    about = {k: kwargs.pop(k) for k in ("policy", "first", "trainable") if k in kwargs}
    t = trajectory(length, own, role=role, **about)
    return Item(trajectory=t, advantages=(advantage * t.mask).astype(np.float32), group=group, **kwargs)


def packed(items, *, seed=0, multiple=1, max_tokens=None, planned=None, **update):
    return minibatches(
        items,
        policy="main",
        planned=planned or {"propose": 4, "solve": 8},
        roles=DEFAULT,
        seed=seed,
        update=Update(**({"minibatches": 1, "row_tokens": 16} | update)),
        multiple=multiple,
        max_tokens=max_tokens,
    )


def test_one_trajectory_by_hand():
    one = item(5, 3, advantage=2.0, returns=np.arange(5), old_values=np.ones(5), reference_logprobs=-np.ones(5))
    (batch,) = packed([one], critic=Critic(kind="shared"))
    assert batch.ids.shape == (8, 16) and batch.loss == "ppo" and batch.policy == "main"
    np.testing.assert_array_equal(batch.ids[0, :5], [1, 2, 3, 4, 0])
    np.testing.assert_array_equal(batch.targets[0, :5], [2, 3, 4, 5, 0])
    np.testing.assert_array_equal(batch.positions[0, :5], [0, 1, 2, 3, 0])
    np.testing.assert_array_equal(batch.segment_ids[0, :5], [1, 1, 1, 1, 0])
    np.testing.assert_array_equal(batch.roles[0, :5], [1, 1, 1, 1, -1])
    np.testing.assert_array_equal(batch.mask[0, :5], [0, 1, 1, 1, 0])
    np.testing.assert_array_equal(batch.advantages[0, :5], [0, 2, 2, 2, 0])
    np.testing.assert_array_equal(batch.behaviour_logprobs[0, :5], [0, -1, -1, -1, 0])
    np.testing.assert_array_equal(batch.returns[0, :5], [1, 2, 3, 4, 0])
    np.testing.assert_allclose(batch.value_weights[0, :5], [0, 1 / 3, 1 / 3, 1 / 3, 0])
    np.testing.assert_allclose(batch.weights[0, :5], np.array([0, 1, 1, 1, 0]) * 0.5 / 8)
    assert not batch.segment_ids[1:].any() and not batch.weights[1:].any()


@pytest.mark.parametrize(
    ("denominator", "propose", "solve"),
    [
        ("active_tokens", 1 / 4, 0.5 / 8),  # 4 own tokens of the proposer, 3 + 5 of the solver
        ("active_sequences", 1.0, 0.5 / 2),
        ("planned_sequences", 1 / 4, 0.5 / 8),
        ("planned_sequences_x_max_tokens", 1 / 40, 0.5 / 160),
    ],
)
def test_denominators_by_hand(denominator: Denominator, propose, solve):
    items = [item(9, 4, role="propose"), item(7, 3), item(8, 5), item(6, 2, in_loss=False)]
    (batch,) = packed(items, denominator=denominator, max_tokens={"propose": 10, "solve": 20}, entropy_coef=0.1)
    for role, share in (("propose", propose), ("solve", solve)):
        found = batch.weights[batch.mask & (batch.roles == ROLES.index(role))]
        np.testing.assert_allclose(found, share, rtol=1e-6)
    assert batch.mask.sum() == 12 and batch.reg_mask.sum() == 14
    np.testing.assert_allclose(batch.reg_weights[batch.reg_mask], 1 / 14)
    assert not batch.value_weights.any()


def test_the_plan_is_shared_by_the_minibatches():
    batches = packed([item(9, 4, group=g) for g in range(4)], minibatches=2)
    assert [b.mask.sum() for b in batches] == [8, 8]
    for batch in batches:  # 8 planned sequences, 4 a minibatch
        np.testing.assert_allclose(batch.weights[batch.mask], 0.5 / 4)


def test_what_is_out_of_the_loss_is_packed_only_where_it_is_needed():
    items = [item(5, 2), item(6, 3, in_loss=False)]
    assert packed(items)[0].reg_mask.sum() == 2
    assert packed(items, entropy_coef=0.01)[0].reg_mask.sum() == 5
    assert packed(items, kl=Kl(place="loss", coef={"solve": 0.1}))[0].reg_mask.sum() == 5
    assert packed(items, kl=Kl(place="loss"))[0].reg_mask.sum() == 2  # all coefficients are 0
    valued = packed([*items, item(4, 1, in_loss=False, returns=np.ones(4))], critic=Critic(kind="shared"))[0]
    assert valued.reg_mask.sum() == 3 and (valued.value_weights > 0).sum() == 1


def test_equal_trajectories_of_a_group_are_laid_out_once_and_weigh_as_all_of_them():
    twice, other, elsewhere = item(6, 3), item(6, 3, first=2), item(6, 3, group=1)
    (batch,) = packed([twice, other, twice, twice, elsewhere], denominator="active_tokens", entropy_coef=0.1)
    counts = batch.counts[batch.mask]
    assert sorted(counts.tolist()) == [1] * 6 + [3] * 3
    np.testing.assert_allclose(batch.weights[batch.mask], counts * 0.5 / 15)  # 5 trajectories of 3 tokens
    np.testing.assert_allclose(batch.reg_weights[batch.reg_mask], counts / 15)
    assert not batch.counts[~batch.reg_mask].any()


def test_the_critics_tokens_count_as_often_as_they_were_sampled():
    valued = item(6, 3, returns=np.ones(6))
    (batch,) = packed([valued, valued, item(5, 3)], critic=Critic(kind="shared"))
    np.testing.assert_allclose(batch.value_weights[batch.value_weights > 0], 2 / 6)


@pytest.mark.parametrize(
    "unlike",
    [
        {"advantage": 1.1},
        {"first": 2},
        {"role": "propose"},
        {"in_loss": False},
        {"returns": np.ones(6)},
        {"old_values": np.ones(6)},
        {"reference_logprobs": -np.ones(6)},
    ],
)
def test_what_differs_in_anything_is_laid_out_by_itself(unlike):
    assert [i.copies for i in distinct([item(6, 3), item(6, 3, **unlike), item(6, 3)])] == [2, 1]


def test_equal_is_up_to_rounding_and_no_further():
    one, near, far = (item(6, 3, advantage=1 + d) for d in (0.0, 5e-6, 5e-5))
    assert [i.copies for i in distinct([one, near, far])] == [2, 1]


def test_a_text_drawn_by_other_weights_is_laid_out_by_itself():
    drawn = [structs.replace(trajectory(6, 3), behaviour_logprobs=np.full(6, x, np.float32)) for x in (-1.0, -1.1)]
    assert [i.copies for i in distinct([replace(item(6, 3), trajectory=t) for t in drawn])] == [1, 1]


def test_candidates_are_part_of_what_is_equal_and_pairs_are_never_merged():
    drawn = [structs.replace(trajectory(6, 3), kept=np.full((3, 2), token)) for token in (4, 5, 5)]
    assert [i.copies for i in distinct([replace(item(6, 3), trajectory=t) for t in drawn])] == [1, 2]
    assert [i.copies for i in distinct([item(6, 3), item(6, 3, pair_id=1), item(6, 3, pair_id=1)])] == [1, 1, 1]


def test_other_policies_and_frozen_roles_stay_out():
    others = [item(5, 2, policy="other"), item(5, 2, trainable=False), item(5, 0)]
    (batch,) = packed(others)
    assert not batch.segment_ids.any() and not batch.weights.any() and batch.ids.shape == (8, 16)


def test_the_seed_orders_groups_and_nothing_else():
    items = [item(5, 2, group=i // 2, first=1 + 10 * i) for i in range(12)]
    a, b = packed(items, minibatches=3, seed=1), packed(items, minibatches=3, seed=1)
    assert all(x.ids.tobytes() == y.ids.tobytes() for x, y in zip(a, b, strict=True))
    other = packed(items, minibatches=3, seed=2)
    assert any(x.ids.tobytes() != y.ids.tobytes() for x, y in zip(a, other, strict=True))
    epochs = packed(items, minibatches=3, epochs=2, seed=1)
    assert len(epochs) == 6
    assert any(x.ids.tobytes() != y.ids.tobytes() for x, y in zip(epochs[:3], epochs[3:], strict=True))


shapes = st.lists(
    st.tuples(st.integers(2, 30), st.integers(1, 29), st.integers(0, 5), st.booleans()), min_size=1, max_size=25
)


@given(shapes, st.integers(1, 3), st.integers(0, 3))
def test_every_token_once_and_groups_whole(drawn, parts, seed):
    items = [
        item(max(n, own + 1), own, group=g, first=1 + 100 * i, advantage=i + 1.0, in_loss=keep)
        for i, (n, own, g, keep) in enumerate(drawn)
    ]
    batches = packed(items, minibatches=parts, seed=seed, entropy_coef=0.1, multiple=3)
    assert len({b.ids.shape for b in batches}) == 1 and batches[0].ids.shape[0] % 3 == 0
    home: dict[int, int] = {}
    seen = []
    for which, batch in enumerate(batches):
        for row, segments in enumerate(batch.segment_ids):
            for s in range(1, segments.max() + 1):
                at = row, segments == s
                i = int(batch.ids[at][0]) // 100
                one = items[i]
                seen.append(i)
                assert home.setdefault(one.group, which) == which
                np.testing.assert_array_equal(batch.ids[at], one.trajectory.ids[:-1])
                np.testing.assert_array_equal(batch.positions[at], np.arange(len(one.trajectory.ids) - 1))
                np.testing.assert_array_equal(batch.targets[at], one.trajectory.ids[1:])
                np.testing.assert_array_equal(batch.reg_mask[at], one.trajectory.mask[1:])
                np.testing.assert_array_equal(batch.mask[at], one.trajectory.mask[1:] & one.in_loss)
                np.testing.assert_array_equal(batch.advantages[at], one.advantages[1:] * one.in_loss)
        assert not batch.weights[~batch.mask].any() and not batch.reg_weights[~batch.reg_mask].any()
    assert sorted(seen) == list(range(len(items)))


def test_minibatches_have_about_equal_tokens():
    rng = np.random.default_rng(0)
    items = [item(int(rng.integers(4, 16)), 2, group=g, first=100 * g) for g in range(60)]
    sizes = [int((b.segment_ids > 0).sum()) for b in packed(items, minibatches=4, seed=5)]
    assert max(sizes) - min(sizes) <= 16


def test_bad_items_are_refused():
    with pytest.raises(ValueError, match="first token"):
        packed([item(3, 3)])
    with pytest.raises(ValueError, match="pair 7 spans groups 0 and 1"):
        packed([item(5, 2, group=0, pair_id=7), item(5, 2, group=1, pair_id=7)])
    with pytest.raises(ValueError, match="planned_sequences number 0"):
        packed([item(5, 2)], planned={"propose": 4})
    with pytest.raises(ValueError, match="max_tokens number 0"):
        packed([item(5, 2)], denominator="planned_sequences_x_max_tokens")
