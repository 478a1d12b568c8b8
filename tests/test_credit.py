"""Pay and credit by hand: every estimator of docs/algorithms.md on numbers that a person can check."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from selfplay.config import Credit, Propose
from selfplay.credit import (
    PAYS,
    centred,
    critic_advantages,
    ema_key,
    expected_pay,
    gae,
    kl_penalty,
    pay,
    spread,
    token_rewards,
    turn_ends,
    turn_numbers,
    turn_rewards,
    turn_shares,
)


def advantages(rewards, keys, *, lengths=None, baselines=None, **credit):
    rewards = np.array(rewards, float)
    return centred(
        rewards,
        [k if isinstance(k, tuple) else (k,) for k in keys],
        np.ones(len(rewards)) if lengths is None else np.array(lengths),
        credit=Credit(**credit),
        baselines=baselines or {},
    )


# ---------------------------------------------------------------- pay

QUARTERS = np.array([0.0, 0.25, 0.5, 0.75, 1.0])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("learnability", [0, 0.75, 1, 0.75, 0]),
        ("one_minus_p", [0, 0.75, 0.5, 0.25, 0]),
        ("tent", [0, 0.5, 1, 0.5, 0]),
        ("gauss", [0, np.exp(-(0.0625**2) / 0.02), 1, np.exp(-(0.0625**2) / 0.02), 0]),
        ("in_band", [0, 1, 1, 1, 0]),
        ("none", [1, 1, 1, 1, 1]),
    ],
)
def test_pay_at_quarters(name, expected):
    np.testing.assert_allclose(pay(QUARTERS, np.full(5, 4), Propose(pay=name)), expected)


def test_every_pay_of_the_config_has_its_function():
    from typing import get_args

    from selfplay.config import Pay

    assert set(PAYS) == set(get_args(Pay))


def test_explicit_values_at_the_ends_are_not_scaled():
    # Absolute Zero as coded: nothing solved and all solved both cost half a point.
    propose = Propose(pay="one_minus_p", pay_scale=2.0, pay_at_zero=-0.5, pay_at_one=-0.25)
    np.testing.assert_allclose(pay(QUARTERS, np.full(5, 4), propose), [-0.5, 1.5, 1.0, 0.5, -0.25])


def test_band_includes_its_edges():
    paid = pay(np.array([0.19, 0.2, 0.8, 0.81]), np.full(4, 100), Propose(pay="in_band"))
    np.testing.assert_array_equal(paid, [0, 1, 1, 0])


@given(st.floats(0.0, 1.0), st.integers(2, 12))
def test_unbiased_learnability_has_mean_4_p_1_minus_p(p, n):
    unbiased = expected_pay(p, n, Propose(unbiased=True))
    np.testing.assert_allclose(unbiased, 4 * p * (1 - p), atol=1e-9)
    np.testing.assert_allclose(expected_pay(p, n, Propose()), (1 - 1 / n) * 4 * p * (1 - p), atol=1e-9)


@pytest.mark.parametrize(("p", "n"), [(float("nan"), 4), (0.5, 0), (1.5, 4)])
def test_a_task_without_a_judged_attempt_is_not_paid(p, n):
    with pytest.raises(ValueError, match="judged attempts"):
        pay(np.array([p]), np.array([n]), Propose())


# ---------------------------------------------------------------- the credit table


def test_grpo_divides_by_the_groups_deviation():
    # Group a: mean 1/4, population std sqrt(3)/4. Group b: all alike, so 0.
    a, _ = advantages([1, 0, 0, 0, 1, 1], list("aaaabb"), centre="group_mean", scale="group_std", eps=0.0)
    np.testing.assert_allclose(a, [3**0.5, -(3**-0.5), -(3**-0.5), -(3**-0.5), 0, 0])


def test_grpo_with_ddof_1_and_eps():
    a, _ = advantages([1, 0], "aa", centre="group_mean", scale="group_std", ddof=1, eps=0.5)
    np.testing.assert_allclose(a, np.array([0.5, -0.5]) / (0.5**0.5 + 0.5))


def test_dr_grpo_leaves_the_scale_out():
    a, _ = advantages([1, 0, 0, 0, 1, 1], list("aaaabb"), centre="group_mean", scale="one")
    np.testing.assert_allclose(a, [0.75, -0.25, -0.25, -0.25, 0, 0])


def test_rloo_never_sees_its_own_reward():
    a, _ = advantages([1, 0, 0.5, 3], list("aaab"), centre="leave_one_out")
    np.testing.assert_allclose(a, [1 - 0.25, 0 - 0.75, 0.5 - 0.5, 0])  # the lone b has no sibling: 0


def test_reinforce_plus_plus_whitens_the_whole_batch():
    # Mean 1/2, std 1/2 over the batch; the task in the key does not split it.
    a, _ = advantages([1, 0, 1, 0], list("aabb"), centre="batch_mean", scale="batch_std", eps=0.0, key=("task",))
    np.testing.assert_allclose(a, [1, -1, 1, -1])


def test_reinforce_plus_plus_baseline_centres_by_task_and_scales_by_batch():
    # Group means 1/2 and 1; the batch of rewards 1 0 1 1 has std sqrt(3)/4.
    a, _ = advantages([1, 0, 1, 1], list("aabb"), centre="group_mean", scale="batch_std", eps=0.0)
    np.testing.assert_allclose(a, np.array([0.5, -0.5, 0, 0]) / (3**0.5 / 4))


def test_trr_plus_plus_whitens_each_stream():
    keys = [("solve", "deduce"), ("solve", "deduce"), ("solve", "abduce"), ("solve", "abduce")]
    a, _ = advantages(
        [1, 0, 3, 1], keys, centre="batch_mean", scale="batch_std", eps=0.0, key=("role", "mode"), weighting="sequence"
    )
    np.testing.assert_allclose(a, [1, -1, 1, -1])


def test_hierarchical_grpo_compares_proposals_of_one_ask():
    a, _ = advantages([0.75, 0.25, -0.5, 1.0], ["x", "x", "y", "y"], centre="group_mean", key=("parent",))
    np.testing.assert_allclose(a, [0.25, -0.25, -0.75, 0.75])


def test_rae_uses_the_average_before_its_update_and_in_order():
    # b: 0 -> .05; then .05 -> .95 * .05 - .05 = -.0025. The other seat has its own.
    keys = [("kuhn", 0), ("kuhn", 1), ("kuhn", 0)]
    a, after = advantages([1, -1, -1], keys, centre="ema", key=("env", "seat"))
    np.testing.assert_allclose(a, [1, -1, -1 - 0.05])
    assert after == {"env=kuhn|seat=0": pytest.approx(-0.0025), "env=kuhn|seat=1": pytest.approx(-0.05)}


def test_moving_baselines_carry_over_and_the_given_ones_stay():
    before = {"role=solve": 0.5}
    a, after = advantages([1.0], [("solve",)], centre="ema", key=("role",), baselines=before, ema_decay=0.5)
    assert a[0] == 0.5 and after == {"role=solve": 0.75} and before == {"role=solve": 0.5}
    assert ema_key(("solve",), Credit(key=("role",))) == "role=solve"


def test_token_weighting_counts_long_answers_more():
    # Weights 3 and 1: mean 3/4, variance (3/16 + 9/16) / 4 = 3/16.
    a, _ = advantages([1, 0], "aa", lengths=[3, 1], centre="group_mean", scale="group_std", weighting="token", eps=0.0)
    np.testing.assert_allclose(a, np.array([0.25, -0.75]) / (3**0.5 / 4))


def test_none_keeps_the_reward():
    a, _ = advantages([1, -0.5], "ab", centre="none")
    np.testing.assert_array_equal(a, [1, -0.5])


def test_equal_rewards_give_exactly_zero():
    # 0.1 + 0.1 + 0.1 is not 0.3 in floating point; such a group must still drop out of the loss.
    for centre in ("group_mean", "batch_mean", "leave_one_out"):
        for scale in ("one", "group_std", "batch_std"):
            a, _ = advantages([0.1] * 3, "aaa", centre=centre, scale=scale)
            np.testing.assert_array_equal(a, [0, 0, 0])


rewards_and_keys = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        arrays(np.float64, n, elements=st.floats(-2, 2)), st.lists(st.sampled_from("abc"), min_size=n, max_size=n)
    )
)


@given(rewards_and_keys, st.sampled_from(["group_mean", "leave_one_out"]), st.sampled_from(["one", "group_std"]))
def test_groups_sum_to_zero_in_any_order(drawn, centre, scale):
    rewards, keys = drawn
    a, _ = advantages(rewards, keys, centre=centre, scale=scale, eps=1e-3)
    for key in set(keys):
        np.testing.assert_allclose(a[[k == key for k in keys]].sum(), 0.0, atol=1e-6)
    backwards, _ = advantages(rewards[::-1], keys[::-1], centre=centre, scale=scale, eps=1e-3)
    np.testing.assert_allclose(backwards[::-1], a, atol=1e-9)


@given(rewards_and_keys, st.floats(-3, 3))
def test_a_constant_on_every_reward_changes_nothing(drawn, shift):
    rewards, keys = drawn
    a, _ = advantages(rewards, keys, centre="group_mean")
    b, _ = advantages(rewards + shift, keys, centre="group_mean")
    np.testing.assert_allclose(a, b, atol=1e-9)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        advantages([float("nan")], "a")
    with pytest.raises(ValueError, match="one value for each"):
        advantages([1.0], [("a", "b")])
    with pytest.raises(ValueError, match="differ in length"):
        advantages([1.0, 2.0], "a")
    with pytest.raises(ValueError, match="critic_advantages"):
        advantages([1.0], "a", centre="critic")


# ---------------------------------------------------------------- tokens, KL in the reward, GAE


def test_spread_and_token_rewards():
    mask = np.array([0, 1, 1, 0, 1, 0], bool)
    np.testing.assert_array_equal(spread(0.5, mask), np.float32([0, 0.5, 0.5, 0, 0.5, 0]))
    np.testing.assert_array_equal(token_rewards(2.0, mask), [0, 0, 0, 0, 2, 0])


def test_kl_penalty_is_minus_coef_times_the_log_ratio_on_policy_tokens():
    penalty = kl_penalty(np.array([0, -1.0, -2.0]), np.array([-9, -1.5, -1.0]), np.array([0, 1, 1], bool), coef=0.1)
    np.testing.assert_allclose(penalty, [0, -0.05, 0.1])


def test_gae_over_two_turns_by_hand():
    # Prompt, two own tokens, two tokens of the environment, two own tokens; gamma 1/2, lambda 1/2.
    mask = np.array([0, 1, 1, 0, 0, 1, 1], bool)
    rewards = np.array([0, 0, 1.0, 0, 0, 0, 2.0])
    values = np.array([9, 1.0, 2.0, 9, 9, 3.0, 4.0])  # what stands off the policy's tokens must not matter
    # delta: 6th 2 - 4 = -2; 5th 4/2 - 3 = -1; 2nd 1 + 3/2 - 2 = 1/2; 1st 2/2 - 1 = 0.
    # A: -2; -1 - 2/4 = -3/2; 1/2 - 3/8 = 1/8; 1/32.
    a, returns = gae(rewards, values, mask, gamma=0.5, gae_lambda=0.5)
    np.testing.assert_allclose(a, [0, 1 / 32, 1 / 8, 0, 0, -1.5, -2])
    np.testing.assert_allclose(returns, [0, 33 / 32, 17 / 8, 0, 0, 1.5, 2])


def test_gae_with_lambda_1_returns_the_reward_to_go():
    mask = np.array([0, 1, 1, 0, 1], bool)
    a, returns = gae(np.array([0, 0, 1.0, 0, 3.0]), np.array([0, 5.0, 6, 0, 7]), mask, gamma=1.0, gae_lambda=1.0)
    np.testing.assert_allclose(returns, [0, 4, 4, 0, 3])
    np.testing.assert_allclose(a, [0, -1, -2, 0, -4])


def test_gae_refuses_a_reward_off_the_policys_tokens():
    with pytest.raises(ValueError, match="did not choose"):
        gae(np.array([1.0, 0]), np.zeros(2), np.array([False, True]), gamma=1.0, gae_lambda=1.0)


def test_critic_advantages_scale_over_all_tokens():
    masks = [np.array([0, 1, 1], bool), np.array([0, 1], bool)]
    rewards = [np.array([0, 0, 1.0]), np.array([0, -2.0])]
    values = [np.zeros(3), np.zeros(2)]
    keys = [("solve",), ("solve",)]
    (first, returns), (second, _) = critic_advantages(
        rewards,
        values,
        masks,
        keys,
        credit=Credit(centre="critic", scale="batch_std", key=("role",), weighting="token", eps=0.0),
    )
    # Token advantages 1, 1, -2: mean 0, std sqrt(2).
    np.testing.assert_allclose(first, [0, 2**-0.5, 2**-0.5], rtol=1e-6)
    np.testing.assert_allclose(second, [0, -(2**0.5)], rtol=1e-6)
    np.testing.assert_array_equal(returns, np.float32([0, 1, 1]))
    # weighting = sequence: weights 1/2, 1/2, 1 give mean -1/2 and variance 9/4.
    (first, _), _ = critic_advantages(
        rewards, values, masks, keys, credit=Credit(centre="critic", scale="batch_std", key=("role",), eps=0.0)
    )
    np.testing.assert_allclose(first, [0, 2 / 3, 2 / 3], rtol=1e-6)


# ---------------------------------------------------------------- turns

# A game of two turns: read, read, write, write | read, write. Reward 2 at its end.
TURN_MASK = np.array([False, False, True, True, False, True])
TURN_STARTS = (2, 5)


@pytest.mark.parametrize(
    ("turns", "expected"),
    [("broadcast", [0, 0, 3, 3, 0, 3]), ("discounted", [0, 0, 1.5, 1.5, 0, 3]), ("terminal", [0, 0, 0, 0, 0, 3])],
)
def test_an_advantage_over_two_turns(turns, expected):
    credit = Credit(turns=turns, gamma=0.5)
    shares = turn_shares(2, credit=credit)[turn_numbers(6, TURN_STARTS)]
    found = spread(3.0, TURN_MASK, shares)
    np.testing.assert_allclose(found, expected)
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("turns", "expected"),
    [("broadcast", [0, 0, 0, 2, 0, 2]), ("discounted", [0, 0, 0, 1, 0, 2]), ("terminal", [0, 0, 0, 0, 0, 2])],
)
def test_a_critics_rewards_over_two_turns(turns, expected):
    found = turn_rewards(2.0, TURN_MASK, TURN_STARTS, credit=Credit(turns=turns, gamma=0.5))
    np.testing.assert_allclose(found, expected)


def test_gae_over_two_turns_by_hand():
    # gamma = 0.5, lambda = 0.5, V = 1 before each of three tokens, reward 2 at the last; what was read is passed over:
    # delta_3 = 2 - 1 = 1; delta_2 = delta_1 = 0.5 - 1 = -0.5; A_3 = 1, A_2 = -0.5 + 0.25 = -0.25, A_1 = -0.5625.
    values = np.where(TURN_MASK, 1.0, 9.0)
    rewards = turn_rewards(2.0, TURN_MASK, TURN_STARTS, credit=Credit(turns="terminal"))
    advantages_, returns = gae(rewards, values, TURN_MASK, gamma=0.5, gae_lambda=0.5)
    np.testing.assert_allclose(advantages_, [0, 0, -0.5625, -0.25, 0, 1])
    np.testing.assert_allclose(returns, [0, 0, 0.4375, 0.75, 0, 2])
    # Each turn by itself, with the whole reward: A_3 = 1; in the first turn A_2 = 2 - 1 = 1, A_1 = -0.5 + 0.25 = -0.25.
    rewards = turn_rewards(2.0, TURN_MASK, TURN_STARTS, credit=Credit(turns="broadcast"))
    ends = turn_ends(TURN_MASK, TURN_STARTS)
    alone, _ = gae(rewards, values, TURN_MASK, gamma=0.5, gae_lambda=0.5, ends=ends)
    np.testing.assert_allclose(alone, [0, 0, -0.25, 1, 0, 1])


@given(st.integers(1, 6), st.floats(0.1, 1.0))
def test_a_single_turn_gets_everything(length, gamma):
    for turns in ("broadcast", "discounted", "terminal"):
        credit = Credit(turns=turns, gamma=gamma)
        assert turn_shares(1, credit=credit).tolist() == [1.0]
        mask = np.arange(length + 2) >= 2
        np.testing.assert_array_equal(turn_rewards(1.5, mask, (2,), credit=credit), token_rewards(1.5, mask))
