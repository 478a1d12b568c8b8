"""The update: by hand where it is small, invariant where it must be, and learning where it should."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from msgspec import structs

from envs.base import Verdict
from selfplay.config import Credit, Critic, Kl, Lora, RoleConfig, Update
from selfplay.credit import centred, critic_advantages, spread, token_rewards
from selfplay.models import ModelConfig, forward, init_params, logits
from selfplay.models.lora import merged, split
from selfplay.models.sharding import make_mesh
from selfplay.objective import Objective
from selfplay.optimizer import decay, followed, moved
from selfplay.packing import Item, minibatches
from selfplay.programs import SLABS
from selfplay.records import PolicyRef, Trajectory
from selfplay.update import Updater, _calls

CONFIG = ModelConfig(
    family="llama", vocab_size=12, hidden_size=16, layers=1, heads=2, kv_heads=1, head_dim=8, intermediate_size=32
)
ROLES = {"propose": RoleConfig(), "solve": RoleConfig(temperature=2.0)}
UPDATE = Update(minibatches=1, row_tokens=16, warmup_steps=0, micro_rows=0)
PLANNED = {"propose": 8, "solve": 16}


@pytest.fixture(scope="module")
def params():
    """Weights large enough that no token is uniform."""
    return jax.tree.map(lambda x: x * 8 if x.ndim > 1 else x, init_params(CONFIG, jax.random.key(0)))


def trajectory(rng, role, length, own, version=0):
    mask = np.arange(length) >= length - own
    return Trajectory(
        role=role,
        policy=PolicyRef("main", version),
        ids=rng.integers(0, 12, length).astype(np.int32),
        mask=mask,
        behaviour_logprobs=np.where(mask, -2.0, 0.0).astype(np.float32),
        turn_starts=(length - own,),
        finish=("stop",),
        verdict=Verdict(1.0, "ok"),
        text="",
    )


def items(updater, params, *, count=24, seed=0, in_loss=True):
    """Trajectories of both roles whose behaviour log-probabilities are the model's own."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        length = int(rng.integers(4, 15))
        made.append(trajectory(rng, "propose" if i % 3 == 0 else "solve", length, int(rng.integers(1, length))))
    scores = updater.logprobs(params, made)
    return [
        Item(
            trajectory=structs.replace(t, behaviour_logprobs=lp),
            advantages=(rng.normal() * t.mask).astype(np.float32),
            group=i // 4,
            in_loss=in_loss,
            returns=(rng.normal(size=len(t.ids)) * t.mask).astype(np.float32),
            reference_logprobs=lp - 0.3 * t.mask,
        )
        for i, (t, lp) in enumerate(zip(made, scores, strict=True))
    ]


def batches(updater, made, *, seed=0, update=None):
    return minibatches(
        made,
        policy="main",
        planned=PLANNED,
        roles=ROLES,
        update=update or updater.update,
        seed=seed,
        multiple=updater.row_multiple,
    )


def assert_trees_close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(np.asarray(x), np.asarray(y), **tolerance), a, b)


PLAIN = replace(UPDATE, warmup_steps=4, learning_rate=1e-3)


@pytest.fixture(scope="module")
def plain(params):
    """PPO alone: one updater, so that its programs are compiled once."""
    updater = Updater(CONFIG, PLAIN, ROLES, make_mesh())
    return updater, items(updater, params)


FULL = replace(
    UPDATE,
    entropy_coef=0.01,
    kl=Kl(place="loss", estimator="k2", coef={"propose": 0.05, "solve": 0.1}),
    critic=Critic(kind="shared"),
)


@pytest.fixture(scope="module")
def full(params):
    """Every term of the loss at once: its updater, items, one Batch and the gradients on one device."""
    updater = Updater(CONFIG, FULL, ROLES, make_mesh())
    made = items(updater, params)
    state = updater.init(params)
    (batch,) = batches(updater, made)
    return updater, made, state, batch, updater.gradients(state, batch)


# ---------------------------------------------------------------- scores


def test_logprobs_are_those_of_a_plain_forward_pass_at_the_roles_temperature(params):
    updater = Updater(CONFIG, UPDATE, ROLES, make_mesh())
    rng = np.random.default_rng(1)
    made = [trajectory(rng, role, 9, 4) for role in ("propose", "solve")]
    for t, got, temperature in zip(made, updater.logprobs(params, made), (1.0, 2.0), strict=True):
        ids = jnp.asarray(t.ids)[None]
        hidden = forward(CONFIG, params, ids, jnp.arange(9)[None], jnp.ones((1, 9), jnp.int32))
        z = np.asarray(logits(CONFIG, params, hidden), np.float64)[0] / temperature
        expected = [0.0] + [z[t_ - 1, t.ids[t_]] - np.log(np.exp(z[t_ - 1]).sum()) for t_ in range(1, 9)]
        np.testing.assert_allclose(got, np.where(t.mask, expected, 0.0), rtol=2e-5, atol=2e-5)


# ---------------------------------------------------------------- the same number however it is computed


def test_equal_trajectories_computed_once_give_the_gradients_and_curves_of_all(full, monkeypatch):
    updater, made, state, *_ = full
    many = [item for item in made for _ in range(1 + item.group % 3)]
    (once,) = batches(updater, many)
    monkeypatch.setattr("selfplay.packing.distinct", list)
    (whole,) = batches(updater, many)
    assert whole.mask.sum() == (once.mask * once.counts).sum() > once.mask.sum()
    for got, expected in zip(updater.gradients(state, once), updater.gradients(state, whole), strict=True):
        assert_trees_close(got, expected, rtol=1e-4, atol=1e-6)
    found, plain = (updater.step(updater.init(state.params), [batch])[1] for batch in (once, whole))
    assert (found.pop("update/distinct_frac"), plain.pop("update/distinct_frac")) == (
        once.mask.sum() / whole.mask.sum(),
        1,
    )
    assert found == pytest.approx(plain, rel=1e-4, abs=1e-6)


def test_gradients_match_one_trajectory_a_row(full, params):
    """The packed loss equals the objective written out without packing, weights or our loss functions."""
    _, made, state, _, expected = full
    kept = [i.trajectory for i in made]
    pad = lambda x: np.pad(x, (0, 16 - len(x)))  # noqa: E731
    ids, chosen, mu = (np.stack([pad(getattr(t, f)) for t in kept]) for f in ("ids", "mask", "behaviour_logprobs"))
    a, returns, reference = (
        np.stack([pad(getattr(i, f)) for i in made])[:, 1:] for f in ("advantages", "returns", "reference_logprobs")
    )
    per_sequence = np.array([1 / PLANNED[t.role] for t in kept])[:, None]
    coef = np.array([FULL.kl.coef[t.role] for t in kept])[:, None]
    temperature = np.array([ROLES[t.role].temperature for t in kept])[:, None, None]
    positions = np.broadcast_to(np.arange(16), ids.shape)

    def objective(params, critic):
        hidden = forward(CONFIG, params, ids, positions, jnp.ones_like(ids))[:, :-1]
        lp = jax.nn.log_softmax(logits(CONFIG, params, hidden) / temperature)
        own = jnp.take_along_axis(lp, ids[:, 1:, None], 2)[..., 0]
        rho = jnp.exp(own - mu[:, 1:])
        ppo = -jnp.minimum(rho * a, jnp.clip(rho, 0.8, 1.28) * a)
        entropy = -jnp.sum(jnp.exp(lp) * lp, -1)
        value = hidden @ critic["head"]["kernel"] + critic["head"]["bias"]
        rest = -0.01 * entropy + coef * 0.5 * (own - reference) ** 2 + 0.5 * 0.5 * (value - returns) ** 2
        return jnp.sum(chosen[:, 1:] * (per_sequence * ppo + rest / chosen.sum()))

    plain = jax.jit(jax.grad(objective, argnums=(0, 1)))(params, state.critic)
    assert_trees_close(expected, plain, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize(("rows", "width", "calls"), [(3, 40, 1), (1, 16, 3)])
def test_micro_batches_padding_and_row_order_change_nothing(full, rows, width, calls):
    _, made, state, _, expected = full
    micro = Updater(CONFIG, replace(FULL, micro_rows=rows, row_tokens=width), ROLES, make_mesh())
    (batch,) = batches(micro, made, seed=9)
    slabs = micro._slabs(batch, None)
    assert 1 < len(slabs) <= SLABS * calls and len(list(_calls(slabs))) == calls
    assert_trees_close(micro.gradients(state, batch), expected, rtol=1e-5, atol=1e-6)


def test_a_call_takes_slabs_of_the_same_arrays():
    """Those of interference come from several batches, of which some may have candidates, more or fewer."""
    plain, few, many = (
        {"ids": np.zeros((1, 4))} | more for more in ({}, *({"kept": np.zeros((1, 4, k))} for k in (2, 4)))
    )
    slabs = [plain] * (SLABS + 2) + [few] * 3 + [many, plain]
    calls = list(_calls(slabs))
    assert [len(call) for call in calls] == [SLABS, 2, 3, 1, 1]
    assert all(a is b for a, b in zip([slab for call in calls for slab in call], slabs, strict=True))


@pytest.mark.proof  # the short form is in test_scaling.py
def test_one_and_eight_devices_agree(full, params):
    updater, made, _, batch, (gradient, critic_gradient) = full
    eight = Updater(CONFIG, FULL, ROLES, make_mesh(4, 2))
    (shared_out,) = batches(eight, made)
    assert eight.row_multiple == 8
    _, one = updater.step(updater.init(params), [batch])
    state, many = eight.step(eight.init(params), [shared_out])
    assert one.keys() == many.keys()
    for name, value in one.items():
        np.testing.assert_allclose(many[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
    # Adam's first moments after a step from 0 are (1 - beta1) x the clipped gradient.
    for tree, moments in ((gradient, state.opt_state), (critic_gradient, state.critic_opt_state)):
        norm = float(optax.tree.norm(tree))
        expected = jax.tree.map(lambda g, norm=norm: 0.1 * g / max(norm, 1.0), tree)
        assert_trees_close(moments[0].mu, expected, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- the optimizer step


def test_the_first_step_is_adamw_on_the_clipped_gradient(full, params):
    updater, _, _, batch, (gradient, _) = full
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4, b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.0))
    updates, _ = tx.update(gradient, tx.init(params), params)
    state, metrics = updater.step(updater.init(params), [batch])
    moved = jax.tree.map(lambda new, old: new - old, state.params, params)
    different = jax.tree.map(lambda a, b: float(jnp.mean(jnp.abs(a - b) > 2e-6)), moved, updates)
    assert max(jax.tree.leaves(different)) < 0.01  # signs of gradients near 0 may differ by rounding
    np.testing.assert_allclose(metrics["policy/grad_norm"], optax.tree.norm(gradient), rtol=1e-4)
    assert int(state.steps) == 1 and metrics["optim/lr"] == pytest.approx(1e-4)


@pytest.mark.parametrize("update", [PLAIN, FULL], ids=["plain", "full"])
def test_the_first_step_finds_compiled_what_was_prepared(update, params, monkeypatch):
    """Neither gradient nor optimizer is traced again, so that a step after `prepare` waits for no compiler."""
    updater = Updater(CONFIG, replace(update, micro_rows=1), ROLES, make_mesh())
    traced, loss = [], Objective.loss
    monkeypatch.setattr(Objective, "loss", lambda *a, **k: traced.append("loss") or loss(*a, **k))
    for name, part in (("moved", moved), ("followed", followed)):
        called = lambda *a, name=name, part=part: traced.append(name) or part(*a)  # noqa: E731
        monkeypatch.setattr(f"selfplay.programs.{name}", called)
    updater.prepare()
    prepared = list(traced)
    (batch,) = batches(updater, items(updater, params))
    assert batch.ids.shape[0] > 1 and batch.ids.shape[1] == update.row_tokens  # a sum of several slabs
    updater.step(updater.init(params), [batch])
    assert set(prepared) == {"loss", "moved", "followed"} and traced == prepared
    for decided_later in ({"micro_rows": 0}, {"row_tokens": 256}, {"entropy_floor": 0.5}):
        Updater(CONFIG, replace(update, **{"micro_rows": 1} | decided_later), ROLES, make_mesh()).prepare()
    assert traced == prepared


def test_warm_up_rises_linearly(plain, params):
    updater, made = plain
    state, step = updater.init(params), batches(updater, made)
    rates = []
    for _ in range(5):
        state, metrics = updater.step(state, step)
        rates.append(metrics["optim/lr"])
    np.testing.assert_allclose(rates, [0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3], rtol=1e-5)


def test_decay_falls_to_its_floor_by_hand():
    linear = replace(PLAIN, decay="linear", decay_floor=0.1)
    assert [decay(linear, done) for done in (0.0, 0.5, 1.0, 1.2)] == pytest.approx([1.0, 0.55, 0.1, 0.1])
    assert decay(PLAIN, 0.7) == 1.0


def test_the_entropy_bonus_falls_with_the_schedule(plain, params):
    _, made = plain
    ends = []
    for fields, done in (({"entropy_coef": 0.2, "entropy_floor": 0.0}, 0.5), ({"entropy_coef": 0.1}, 0.0)):
        updater = Updater(CONFIG, replace(PLAIN, **fields), ROLES, make_mesh())
        ends.append(updater.step(updater.init(params), batches(updater, made), done=done)[0].params)
    assert_trees_close(*ends, rtol=1e-6, atol=1e-8)


def test_decay_scales_the_move_and_nothing_else(full, params):
    batch = full[3]
    scaled = Updater(CONFIG, replace(FULL, decay="linear"), ROLES, make_mesh())
    whole, _ = scaled.step(scaled.init(params), [batch], done=0.0)
    half, metrics = scaled.step(scaled.init(params), [batch], done=0.5)
    assert metrics["optim/lr"] == pytest.approx(0.55e-4)
    for start, one, two in zip(*(jax.tree.leaves(t) for t in (params, whole.params, half.params)), strict=True):
        np.testing.assert_allclose(two - start, 0.55 * (one - start), rtol=0, atol=2e-7)
    for one, two in zip(*(jax.tree.leaves(t) for t in (whole.opt_state, half.opt_state)), strict=True):
        np.testing.assert_array_equal(one, two)


def test_an_empty_minibatch_touches_nothing(plain, params):
    updater, made = plain
    two = batches(updater, made[:4], update=replace(PLAIN, minibatches=2))  # one group: one minibatch stays empty
    state, metrics = updater.step(updater.init(params), two)
    assert metrics["update/skipped"] == 1 and int(state.steps) == 1
    before = jax.tree.map(np.asarray, state)
    state, metrics = updater.step(state, [b for b in two if not b.weights.any()])
    assert metrics["update/skipped"] == 1 and "policy/loss" not in metrics
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, state))


def test_a_gradient_that_is_not_finite_touches_nothing(plain, params):
    updater, made = plain
    (batch,) = batches(updater, made)
    broken = np.where(batch.mask, np.float32(np.nan), batch.advantages)
    state, metrics = updater.step(updater.init(params), [structs.replace(batch, advantages=broken)])
    assert metrics["update/nonfinite"] == 1 and metrics["update/skipped"] == 1 and int(state.steps) == 0
    jax.tree.map(np.testing.assert_array_equal, state.params, params)
    assert not any(np.asarray(m).any() for m in jax.tree.leaves(state.opt_state))


def test_a_published_version_outlives_the_next_step(plain, params):
    updater, made = plain
    state = updater.init(params)
    version = updater.publish(state)
    state, _ = updater.step(state, batches(updater, made))
    jax.tree.map(np.testing.assert_array_equal, version, params)
    assert float(jnp.abs(state.params["embed"] - version["embed"]).max()) > 0


# ---------------------------------------------------------------- three policies


def test_fresh_data_has_no_mismatch(full, params):
    updater, _, _, batch, _ = full
    _, metrics = updater.step(updater.init(params), [batch])
    assert metrics["mismatch/logp_absdiff_max"] < 1e-4 and metrics["mismatch/cap_frac"] == 0
    assert metrics["mismatch/ess"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["policy/clip_frac"] == 0 and abs(metrics["policy/approx_kl"]) < 1e-6


@pytest.mark.parametrize("steps", [1, 2])
def test_stale_data_is_weighted_by_the_capped_ratio(plain, params, steps):
    """mu = learner - log 3 on every token: weight min(3, cap 2) = 2, so the gradient doubles."""
    updater, made = plain
    late = [
        replace(
            i,
            trajectory=structs.replace(
                i.trajectory,
                behaviour_logprobs=i.trajectory.behaviour_logprobs - np.float32(np.log(3)) * i.trajectory.mask,
            ),
        )
        for i in made
    ]
    (fresh,) = batches(updater, made)
    _, expected = updater.step(updater.init(params), [fresh])
    state, metrics = updater.step(updater.init(params), batches(updater, late) * steps, stale=True)
    assert metrics["mismatch/cap_frac"] == 1.0 and int(state.steps) == steps
    assert metrics["mismatch/logp_absdiff_mean"] == pytest.approx(np.log(3), rel=1e-4)
    assert metrics["policy/clip_frac"] < 0.05  # the clip looks at theta / old, not at theta / mu
    if steps == 1:
        assert metrics["policy/grad_norm"] == pytest.approx(2 * expected["policy/grad_norm"], rel=1e-4)


def test_interference_splits_the_gradient_by_role(plain, params):
    updater, made = plain
    state, (batch,) = updater.init(params), batches(updater, made)
    metrics = updater.interference(state, [batch])
    p, s, cosine = (metrics[k] for k in ("grad_norm/propose", "grad_norm/solve", "grad_cosine/propose_solve"))
    _, whole = updater.step(state, [batch])
    assert whole["policy/grad_norm"] ** 2 == pytest.approx(p**2 + s**2 + 2 * p * s * cosine, rel=1e-3)
    assert p > 0 and s > 0


def test_interference_is_over_the_sum_of_the_batches(plain, params):
    updater, made = plain
    state, (batch,) = updater.init(params), batches(updater, made)
    once, twice = updater.interference(state, [batch]), updater.interference(state, [batch, batch])
    for role in ("propose", "solve"):
        assert twice[f"grad_norm/{role}"] == pytest.approx(2 * once[f"grad_norm/{role}"], rel=1e-5)
    assert twice["grad_cosine/propose_solve"] == pytest.approx(once["grad_cosine/propose_solve"], rel=1e-4)


# ---------------------------------------------------------------- KL over whole distributions


def test_full_kl_to_itself_is_zero_and_needs_the_reference(params):
    kl = Kl(place="loss", estimator="full", coef={"solve": 1.0})
    updater = Updater(CONFIG, replace(UPDATE, kl=kl), ROLES, make_mesh())
    step = batches(updater, items(updater, params, in_loss=False))
    state, metrics = updater.step(updater.init(params), step, references=params)
    assert abs(metrics["policy/ref_kl"]) < 1e-6 and metrics["update/skipped"] == 0
    state, metrics = updater.step(state, step, references=jax.tree.map(lambda x: 0.5 * x, params))
    assert metrics["policy/ref_kl"] > 0.01
    with pytest.raises(ValueError, match="reference's weights"):
        updater.step(state, step)


# ---------------------------------------------------------------- critic


@pytest.mark.parametrize("kind", ["shared", "separate"])
def test_critic_warm_up_leaves_the_policy_alone(full, params, kind):
    updater, made, *_ = full
    if kind == "separate":
        updater = Updater(CONFIG, replace(UPDATE, critic=Critic(kind=kind)), ROLES, make_mesh())
    state = updater.init(params)
    assert not any(v.any() for v in updater.values(state, [i.trajectory for i in made]))  # the head starts at 0
    state, metrics = updater.step(state, batches(updater, made), critic_only=True)
    jax.tree.map(np.testing.assert_array_equal, state.params, params)
    assert not any(np.asarray(m).any() for m in jax.tree.leaves(state.opt_state)) and int(state.steps) == 0
    assert any(v.any() for v in updater.values(state, [i.trajectory for i in made]))
    assert metrics["critic/loss"] > 0 and metrics["critic/explained_variance/solve"] == pytest.approx(0.0, abs=1e-6)


def test_explained_variance_of_perfect_values_is_one(full, params):
    updater = full[0]
    made = [replace(i, old_values=i.returns) for i in full[1]]
    _, metrics = updater.step(updater.init(params), batches(updater, made))
    assert metrics["critic/explained_variance/propose"] == metrics["critic/explained_variance/solve"] == 1.0


# ---------------------------------------------------------------- it learns


@pytest.mark.parametrize("critic", ["none", "shared"])
def test_a_bandit_is_learnt(critic):
    """After token 1, say 7: from chance (1/12) to almost always within 30 steps, with and without a critic."""
    update = replace(UPDATE, learning_rate=1e-2, minibatches=2, critic=Critic(kind=critic), row_tokens=64)
    updater = Updater(CONFIG, update, {r: RoleConfig() for r in ("propose", "solve")}, make_mesh())
    state = updater.init(init_params(CONFIG, jax.random.key(3)))
    credit = Credit(key=("task",)) if critic == "none" else Credit(centre="critic", key=("task",), scale="batch_std")
    rng = np.random.default_rng(0)
    prompt, mask = np.array([1], np.int32), np.array([False, True])

    def say(token, lp):
        return Trajectory(
            role="solve",
            policy=PolicyRef("main", 0),
            ids=np.append(prompt, token).astype(np.int32),
            mask=mask,
            behaviour_logprobs=np.array([0, lp], np.float32),
            turn_starts=(1,),
            finish=("stop",),
            verdict=Verdict(1.0, "ok"),
            text="",
        )

    every = [say(token, 0.0) for token in range(12)]
    for _ in range(30):
        lp = np.array([x[1] for x in updater.logprobs(state.params, every)], np.float64)
        chance = np.exp(lp) / np.exp(lp).sum()
        said = [say(token, lp[token]) for token in rng.choice(12, size=64, p=chance)]
        rewards = np.array([float(t.ids[1] == 7) for t in said])
        keys = [("bandit",)] * len(said)
        if critic == "none":
            a, _ = centred(rewards, keys, np.ones(len(said)), credit=credit, baselines={})
            made = [
                Item(trajectory=t, advantages=spread(x, mask), group=i)
                for i, (t, x) in enumerate(zip(said, a, strict=True))
            ]
        else:
            values = updater.values(state, said)
            paid = [token_rewards(r, mask) for r in rewards]
            pairs = critic_advantages(paid, values, [mask] * 64, keys, credit=credit)
            made = [
                Item(trajectory=t, advantages=a, returns=ret, old_values=v, group=i)
                for i, (t, (a, ret), v) in enumerate(zip(said, pairs, values, strict=True))
            ]
        step = minibatches(
            made,
            policy="main",
            planned={"solve": 64},
            roles={"solve": RoleConfig()},
            update=update,
            seed=int(rng.integers(2**31)),
        )
        state, _ = updater.step(state, step)
    assert np.exp(updater.logprobs(state.params, [every[7]])[0][1]) > 0.9


# ---------------------------------------------------------------- adapters and number formats


def adapted(params, **settings):
    config = replace(CONFIG, lora=Lora(rank=2, alpha=4.0))
    updater = Updater(config, replace(UPDATE, **settings), ROLES, make_mesh())
    return updater, updater.init(params, jax.random.key(5))


def test_lora_trains_the_adapter_and_nothing_else(params):
    updater, state = adapted(params, loss="reinforce", learning_rate=1e-2)
    start = jax.tree.map(np.asarray, updater.weights(state.params))
    made = items(updater, updater.weights(state.params))
    held = updater.publish(state)
    for _ in range(2):
        state, metrics = updater.step(state, batches(updater, made))
    assert metrics["policy/grad_norm"] > 0
    moved, rest = split(updater.weights(state.params))
    assert jax.tree.structure(held) == jax.tree.structure(moved) == jax.tree.structure(state.params)
    assert len(jax.tree.leaves(state.opt_state)) < 4 * len(jax.tree.leaves(moved))  # no moments of what stays
    jax.tree.map(np.testing.assert_array_equal, rest, split(start)[1])
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(moved))
    jax.tree.map(np.testing.assert_array_equal, held, split(start)[0])  # published: no later step touches it


def test_the_gradient_of_an_adapter_is_that_of_the_matrix_through_it(params):
    # W + s A B: dL/dA = s dL/dW^T B^T and dL/dB = s A^T dL/dW^T, W [out, in].
    updater, state = adapted(params)
    state = replace(state, params=jax.tree.map(lambda x: x + 0.05, state.params))
    merged_tree = merged(updater.config, updater.weights(state.params))
    full = Updater(CONFIG, UPDATE, ROLES, make_mesh())
    made = items(full, merged_tree)
    got, _ = updater.gradients(state, batches(updater, made)[0])
    want, _ = full.gradients(full.init(merged_tree), batches(full, made)[0])
    for part, name in (("attn", "q"), ("attn", "o"), ("mlp", "down")):
        dw = want["layers"]["0"][part][name]["weight"].T
        mine, own = got["layers"]["0"][part][name], state.params["layers"]["0"][part][name]
        np.testing.assert_allclose(mine["lora_a"], 2 * dw @ own["lora_b"].T, atol=2e-5 * float(jnp.abs(dw).max()))
        np.testing.assert_allclose(mine["lora_b"], 2 * own["lora_a"].T @ dw, atol=2e-5 * float(jnp.abs(dw).max()))


def test_bfloat16_weights_are_computed_with_and_float32_ones_are_trained(params):
    updater = Updater(CONFIG, replace(UPDATE, learning_rate=1e-5), ROLES, make_mesh(), dtype=jnp.bfloat16)
    state = updater.init(params)
    made = items(updater, updater.weights(state.params))
    before = jax.tree.map(np.asarray, state.params)
    state, metrics = updater.step(state, batches(updater, made))
    assert {x.dtype.name for x in jax.tree.leaves(updater.publish(state))} == {"bfloat16"}
    assert {x.dtype.name for x in jax.tree.leaves((state.params, state.opt_state[0].mu))} == {"float32"}
    assert metrics["mismatch/logp_absdiff_max"] < 1e-4  # scored and trained with the same rounding
    changes = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - b).max()), state.params, before)
    assert 0 < max(jax.tree.leaves(changes)) < 2e-5  # smaller than a bfloat16 can hold beside a weight of 1
