"""Losses by hand, and by enumeration: expected gradients computed over every possible token."""

from __future__ import annotations

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from selfplay import losses
from selfplay.config import KlEstimator, LossName
from selfplay.credit import kl_penalty

CLIP = {"clip_eps": 0.2, "clip_eps_high": 0.28}


def test_dicts_match_the_config():
    assert set(losses.LOSSES) == set(get_args(LossName))
    assert set(losses.KL) == set(get_args(KlEstimator))


def test_ppo_clip_by_hand():
    # rho = 1.5 with A = +1 is cut to 1.28; rho = 0.5 with A = -1 to 0.8; rho = 1.5 with A = -1 and 0.5 with +1 are not.
    rho, a = jnp.array([[1.5, 0.5, 1.5, 0.5]]), jnp.array([[1.0, -1.0, -1.0, 1.0]])
    terms = losses.ppo(jnp.log(rho), jnp.zeros((1, 4)), a, **CLIP)
    np.testing.assert_allclose(terms, [[-1.28, 0.8, 1.5, -0.5]], rtol=1e-6)
    low, high = losses.clipped(jnp.log(rho), jnp.zeros((1, 4)), a, **CLIP)
    np.testing.assert_array_equal(low, [[False, True, False, False]])
    np.testing.assert_array_equal(high, [[True, False, False, False]])


def test_ppo_has_no_gradient_where_it_is_clipped():
    a = jnp.array([1.0, -1.0, -1.0, 1.0])
    lp = jnp.log(jnp.array([1.5, 0.5, 1.5, 0.5]))
    gradient = jax.grad(lambda lp: losses.ppo(lp, jnp.zeros(4), a, **CLIP).sum())(lp)
    np.testing.assert_allclose(gradient, [0, 0, 1.5, -0.5], rtol=1e-6)  # d(-rho A)/d log pi = -rho A


def test_ppo_at_the_old_policy_is_reinforce():
    lp, a = jnp.array([-1.0, -2.0, -0.5]), jnp.array([1.0, -2.0, 0.3])
    ours = jax.grad(lambda x: losses.ppo(x, lp, a, **CLIP).sum())(lp)
    theirs = jax.grad(lambda x: losses.reinforce(x, lp, a, **CLIP).sum())(lp)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    np.testing.assert_allclose(theirs, -a)


def test_nll_is_the_negative_log_likelihood():
    np.testing.assert_allclose(losses.nll(jnp.array([-1.5]), jnp.zeros(1), jnp.array([7.0]), **CLIP), [1.5])


def test_importance_is_capped_and_fixed():
    old, mu = jnp.log(jnp.array([1.0, 1.0, 1.0])), jnp.log(jnp.array([0.25, 0.8, 2.0]))
    np.testing.assert_allclose(losses.importance(old, mu, cap=2.0), [2.0, 1.25, 0.5], rtol=1e-6)
    np.testing.assert_array_equal(jax.grad(lambda x: losses.importance(x, mu, cap=2.0).sum())(old), [0, 0, 0])


def test_token_logprobs_and_entropy():
    z = jnp.log(jnp.array([[[0.5, 0.25, 0.25]]])) + 3.0
    np.testing.assert_allclose(losses.token_logprobs(z, jnp.array([[1]])), [[np.log(0.25)]], rtol=1e-6)
    np.testing.assert_allclose(losses.entropy(z), [[1.5 * np.log(2)]], rtol=1e-6)
    gradient = jax.grad(lambda x: losses.token_logprobs(x, jnp.array([[1]])).sum())(z)
    np.testing.assert_allclose(gradient, [[[-0.5, 0.75, -0.25]]], rtol=1e-5)


def test_squared_error():
    np.testing.assert_allclose(losses.squared_error(jnp.array([1.0]), jnp.array([3.0])), [2.0])


# ---------------------------------------------------------------- KL on a vocabulary of 5, by enumeration

Z = jnp.array([0.3, -1.0, 0.8, 0.1, -0.4])
REF = jax.nn.log_softmax(jnp.array([-0.2, 0.5, 0.4, -0.9, 0.0]))


def true_kl(z):
    lp = jax.nn.log_softmax(z)
    return jnp.sum(jnp.exp(lp) * (lp - REF))


def expected(estimator):
    """E over x ~ pi of the estimator, the sampling distribution being fixed: what a sampled loss is on average."""
    chance = jax.nn.softmax(Z)
    return lambda z: jnp.sum(chance * losses.KL[estimator](jax.nn.log_softmax(z), REF))


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_k1_and_k3_have_the_value_of_the_kl(estimator):
    np.testing.assert_allclose(expected(estimator)(Z), true_kl(Z), rtol=1e-5)


def test_full_has_the_value_and_gradient_of_the_kl():
    def full(z):
        return losses.full(jax.nn.log_softmax(z)[None, None], REF[None, None])[0, 0]

    np.testing.assert_allclose(full(Z), true_kl(Z), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(full)(Z), jax.grad(true_kl)(Z), atol=1e-6)


def test_k2_as_a_loss_has_the_gradient_of_the_kl():
    np.testing.assert_allclose(jax.grad(expected("k2"))(Z), jax.grad(true_kl)(Z), atol=1e-6)


def test_k1_as_a_loss_has_no_gradient_at_all():
    np.testing.assert_allclose(jax.grad(expected("k1"))(Z), 0.0, atol=1e-6)


def test_k3_as_a_loss_follows_the_other_kl():
    def reverse(z):
        return jnp.sum(jnp.exp(REF) * (REF - jax.nn.log_softmax(z)))

    k3 = jax.grad(expected("k3"))(Z)
    np.testing.assert_allclose(k3, jax.grad(reverse)(Z), atol=1e-6)
    assert float(jnp.abs(k3 - jax.grad(true_kl)(Z)).max()) > 0.05


def test_k1_in_the_reward_has_the_gradient_of_the_kl():
    # REINFORCE with reward = -coef * k1: E[-A log pi] has gradient coef * grad KL.
    chance, lp = jax.nn.softmax(Z), jax.nn.log_softmax(Z)
    reward = jnp.asarray(kl_penalty(np.asarray(lp), np.asarray(REF), np.ones(5, bool), coef=0.5))
    loss = lambda z: jnp.sum(chance * losses.reinforce(jax.nn.log_softmax(z), lp, reward, **CLIP))  # noqa: E731
    np.testing.assert_allclose(jax.grad(loss)(Z), 0.5 * jax.grad(true_kl)(Z), atol=1e-6)


# ---------------------------------------------------------------- two tasks: the joint gradient is the roles' sum


def test_joint_expected_gradient_is_the_sum_of_the_roles():
    """The proposer picks task 0 or 1, the solver answers right or wrong, one weight vector plays both.

    The objective is E[pay] + E[reward] with the pay's p held fixed (it carries no gradient). Its exact gradient
    must equal the expected REINFORCE gradient of the two roles together, enumerated over every outcome.
    """
    theta = jnp.array([0.4, -0.3, 0.7])

    def propose(theta):
        return jax.nn.log_softmax(jnp.stack([theta[0], theta[1] * theta[2]]))

    def solve(theta, task):
        return jax.nn.log_softmax(jnp.stack([theta[1] + task * theta[0], theta[2]]))

    reward = jnp.array([1.0, 0.0])
    p = jnp.array([jnp.exp(solve(theta, task))[0] for task in (0, 1)])
    paid = 4 * p * (1 - p)

    def objective(theta, fixed):
        asked = jnp.exp(propose(theta))
        solved = jnp.exp(propose(fixed)) @ jnp.array([jnp.exp(solve(theta, t)) @ reward for t in (0, 1)])
        return asked @ paid + solved

    def sampled_loss(theta, role):
        total = 0.0
        for task in (0, 1):
            chance = jnp.exp(propose(theta_fixed))[task]
            if role == "propose":
                total += chance * losses.reinforce(propose(theta)[task], 0.0, paid[task], **CLIP)
            else:
                answers = jnp.exp(solve(theta_fixed, task))
                total += chance * jnp.sum(answers * losses.reinforce(solve(theta, task), 0.0, reward, **CLIP))
        return total

    theta_fixed = theta
    by_role = [jax.grad(sampled_loss)(theta, role) for role in ("propose", "solve")]
    exact = jax.grad(objective)(theta, theta_fixed)
    np.testing.assert_allclose(by_role[0] + by_role[1], -exact, atol=1e-6)
    assert all(float(jnp.abs(g).max()) > 0.01 for g in by_role)  # each role has its share
