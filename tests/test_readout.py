"""Chunks of logits give the numbers of all logits at once, and never hold them all."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from selfplay import summaries
from selfplay.config import RoleConfig, Update
from selfplay.models import logits
from selfplay.models.sharding import batch_sharding, make_mesh, shard_params
from selfplay.readout import read_out
from selfplay.summaries import Positions
from selfplay.update import Updater
from tests.models.shapes import LLAMA, QWEN2, random_params

ROWS, TOKENS = 8, 15


def positions(config, *, reference=True):
    """Hidden states of which a third is chosen, none at all in the last two rows."""
    rng = np.random.default_rng(0)
    shape = (ROWS, TOKENS)
    hidden, other = (rng.normal(size=(*shape, config.hidden_size)).astype(np.float32) for _ in range(2))
    return Positions(
        hidden=hidden,
        ids=rng.integers(0, config.vocab_size, shape).astype(np.int32),
        chosen=(rng.random(shape) < 0.3) & (np.arange(ROWS) < ROWS - 2)[:, None],
        temperature=rng.choice([1.0, 0.7], shape).astype(np.float32),
        reference=other if reference else None,
    )


def loss_of(config, mesh, chunk, *, by_blocks=False):
    """A scalar in which every term has its own weight at every position."""
    weights = np.random.default_rng(1).normal(size=(3, ROWS, TOKENS)).astype(np.float32)

    def loss(params, hidden, at, reference):
        at = at._replace(hidden=hidden)
        terms = read_out(config, (params, reference), at, chunk=chunk, mesh=mesh, by_blocks=by_blocks)
        return sum(jnp.sum(w * term) for w, term in zip(weights, terms, strict=True)), terms

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


@pytest.fixture(scope="module")
def at_once():
    """By config: its weights, those of a reference, and values and gradients with all logits at once."""

    def ask(config):
        params, reference = random_params(config), random_params(config, seed=7)
        at = positions(config)
        return params, reference, at, loss_of(config, make_mesh(), 0)(params, at.hidden, at, reference)

    return {config: ask(config) for config in (LLAMA, QWEN2)}


def assert_close(got, expected, share):
    """Largest difference within `share` of each tensor's largest entry."""
    for path, (a, b) in zip(
        [p for p, _ in jax.tree_util.tree_leaves_with_path(expected)],
        zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True),
        strict=True,
    ):
        largest = float(np.max(np.abs(b)))
        np.testing.assert_allclose(a, b, rtol=0, atol=share * largest + 1e-30, err_msg=str(path))


@pytest.mark.parametrize("config", [LLAMA, QWEN2], ids=["tied", "untied"])
def test_chunks_give_values_and_gradients_of_all_at_once(at_once, config):
    params, reference, at, expected = at_once[config]
    got = loss_of(config, make_mesh(), 16)(params, at.hidden, at, reference)  # 120 positions: 8 chunks, 5 skipped
    assert_close((got[0][1], got[1]), (expected[0][1], expected[1]), 1e-6)
    assert not np.asarray(got[0][1].logprobs)[~at.chosen].any()


SOFT = replace(LLAMA, logit_softcap=0.5)


@pytest.mark.parametrize("config", [LLAMA, QWEN2, SOFT], ids=["tied", "untied", "softcap"])
@pytest.mark.parametrize("chunk", [16, 1000])
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("candidates", [False, True])
def test_blocks_of_the_vocabulary_give_values_and_gradients_of_all_at_once(
    config, chunk, devices, candidates, monkeypatch
):
    params, reference, at = random_params(config), random_params(config, seed=7), positions(config)
    if candidates:  # of every other row: the token and two more
        more = np.random.default_rng(3).integers(0, config.vocab_size - 2, at.ids.shape)[..., None]
        more = more + np.array([0, 1]) + (more + np.array([0, 1]) >= at.ids[..., None])
        kept = np.concatenate([at.ids[..., None], more], axis=-1).astype(np.int32)
        at = at._replace(kept=np.where(np.arange(ROWS)[:, None, None] % 2, kept, -1))
    expected = loss_of(config, make_mesh(), 0)(params, at.hidden, at, reference)
    monkeypatch.setattr(summaries, "CACHED", config.vocab_size // 4)
    assert summaries.block_of(config.vocab_size, make_mesh()) == config.vocab_size // 4
    assert summaries.block_of(config.vocab_size, make_mesh(1, 1, 2)) == config.vocab_size
    got = loss_of(config, make_mesh(devices), chunk, by_blocks=True)(params, at.hidden, at, reference)
    assert_close((got[0][1], got[1]), (expected[0][1], expected[1]), 5e-6)


@pytest.mark.parametrize("shape", [(1, 8, 1), (2, 2, 2)])
def test_chunks_on_eight_devices(at_once, shape):
    params, reference, at, expected = at_once[QWEN2]
    mesh = make_mesh(*shape)
    spread = jax.tree.map(lambda x: jax.device_put(x, batch_sharding(mesh)), at)
    program = loss_of(QWEN2, mesh, 8)
    got = program(shard_params(params, mesh), spread.hidden, spread, shard_params(reference, mesh))
    assert_close((got[0][1], got[1]), (expected[0][1], expected[1]), 2e-6)


def largest(jaxpr) -> int:
    """Elements of the largest array that a traced program makes, programs inside it included."""
    sizes = [int(np.prod(v.aval.shape)) for e in jaxpr.eqns for v in e.outvars if hasattr(v.aval, "shape")]
    inner = [largest(sub) for e in jaxpr.eqns for sub in jaxprs_in_params(e.params)]
    return max([*sizes, *inner, 0])


def test_no_array_holds_the_logits_of_all_positions():
    config = replace(LLAMA, vocab_size=1024)
    params, at = random_params(config), positions(config, reference=False)
    whole = ROWS * TOKENS * config.vocab_size

    def made(chunk):
        def loss(params, hidden):
            terms = read_out(config, (params, None), at._replace(hidden=hidden), chunk=chunk, mesh=make_mesh())
            return terms.logprobs.sum() + terms.entropy.sum()

        traced = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(params, at.hidden)
        return largest(traced.jaxpr)

    assert made(0) == whole
    assert made(16) == max(16 * config.vocab_size, config.vocab_size * config.hidden_size) < whole / 3


@pytest.mark.parametrize("as_elsewhere", [False, True])
def test_on_a_cpu_no_array_holds_the_logits_of_a_chunk(as_elsewhere):
    """But where an accelerator's memory is foretold."""
    config = replace(LLAMA, vocab_size=8192)
    update, roles = Update(micro_rows=1, row_tokens=128, logit_chunk=100), {"solve": RoleConfig()}
    programs = Updater(config, update, roles, make_mesh(), as_elsewhere=as_elsewhere).programs
    shapes = programs.shapes(1, 128)
    state, frozen, slab, references = shapes.state, shapes.frozen, shapes.slab, shapes.references
    traced = jax.make_jaxpr(partial(programs._traced, old="behaviour"))(
        state.params, frozen, state.critic, slab, references
    )
    assert largest(traced.jaxpr) == (100 * 8192 if as_elsewhere else 100 * 4096)


def test_a_matrix_that_is_not_trained_costs_no_gradient():
    """As with LoRA: no product of its shape is left in the compiled program."""
    config = replace(LLAMA, vocab_size=1024)
    params, at = random_params(config), positions(config, reference=False)

    def loss(params, hidden):
        terms = read_out(config, (params, None), at._replace(hidden=hidden), chunk=16, mesh=make_mesh())
        return terms.logprobs.sum()

    def products(argument):
        text = jax.jit(jax.grad(loss, argnums=argument)).lower(params, at.hidden).compile().as_text()
        return sum(f"f32[1024,{config.hidden_size}]" in x.split("dot(")[0] for x in text.splitlines() if " dot(" in x)

    assert products(0) == 1 and products(1) == 0


def test_what_is_not_chosen_is_not_computed():
    """A hidden state that is not a number, off the chosen positions, reaches neither the sum nor its gradient."""
    params, at = random_params(LLAMA), positions(LLAMA, reference=False)
    broken = np.where(at.chosen[..., None], at.hidden, np.nan)

    def loss(params, hidden, chunk):
        terms = read_out(LLAMA, (params, None), at._replace(hidden=hidden), chunk=chunk, mesh=make_mesh())
        return terms.logprobs.sum()

    used = int(at.chosen.sum())
    gradient = jax.jit(jax.grad(loss), static_argnums=2)(params, broken, used)  # the first chunk holds all of them
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
    assert np.abs(gradient["embed"]).max() > 0


def test_terms_among_candidates_by_the_definition():
    # Every other row is held to 3 candidates, the token itself among them, of room for 4; the others to none.
    at, config = positions(LLAMA), LLAMA
    rng = np.random.default_rng(5)
    others = np.stack([rng.permutation(config.vocab_size - 1)[:2] for _ in range(ROWS * TOKENS)])
    others = others.reshape(ROWS, TOKENS, 2).astype(np.int32)
    kept = np.concatenate(
        [others + (others >= at.ids[..., None]), at.ids[..., None], np.full((ROWS, TOKENS, 1), -1)], -1
    )
    kept = np.where((np.arange(ROWS) % 2 == 0)[:, None, None], kept, -1).astype(np.int32)
    params, reference = random_params(config), random_params(config, seed=7)
    free = read_out(config, (params, reference), at, chunk=0, mesh=make_mesh())
    grad = loss_of(config, make_mesh(), 16)
    (_, terms), (_, hidden) = grad(params, at.hidden, at._replace(kept=kept), reference)
    assert np.isfinite(hidden).all()
    z, ref = (np.asarray(logits(config, p, h)) / at.temperature[..., None] for p, h in
              ((params, at.hidden), (reference, at.reference)))  # fmt: skip
    for row, place in np.argwhere(at.chosen):
        found = [float(term[row, place]) for term in terms]
        if row % 2:
            np.testing.assert_allclose(found, [float(term[row, place]) for term in free], atol=1e-5)
            continue
        p, q = (jax.nn.softmax(x[row, place, kept[row, place, :3]]) for x in (z, ref))
        np.testing.assert_allclose(found, [np.log(p[2]), -(p * np.log(p)).sum(), (p * np.log(p / q)).sum()], atol=1e-5)
