"""The same numbers on one device and on eight, whatever the mesh, the micro-batches and the chunks; and memory that
falls with the devices."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import jax
import numpy as np
import pytest
from msgspec import structs

from benchmarks.memory import measure
from envs.base import Verdict
from selfplay.config import Critic, Kl, RoleConfig, Update
from selfplay.models import ModelConfig, init_params
from selfplay.models.sharding import make_mesh
from selfplay.packing import Item, minibatches
from selfplay.records import PolicyRef, Trajectory
from selfplay.update import Updater

CONFIG = ModelConfig(
    family="qwen3", vocab_size=24, hidden_size=16, layers=1, heads=4, kv_heads=2, head_dim=8, intermediate_size=32,
    qk_norm=True,
)  # fmt: skip
ROLES = {"propose": RoleConfig(), "solve": RoleConfig(temperature=2.0)}
PLANNED = {"propose": 8, "solve": 16}

BASE = Update(minibatches=1, row_tokens=32, warmup_steps=0, micro_rows=0, learning_rate=1e-3, entropy_coef=0.01)
KINDS = {
    "ppo, k2, shared critic": replace(
        BASE, kl=Kl(place="loss", estimator="k2", coef={"propose": 0.05, "solve": 0.1}), critic=Critic(kind="shared")
    ),
    "reinforce, k3": replace(BASE, loss="reinforce", kl=Kl(place="loss", estimator="k3", coef={"solve": 0.1})),
    "nll": replace(BASE, loss="nll", entropy_coef=0.0),
    "ppo, full KL, separate critic": replace(
        BASE, kl=Kl(place="loss", estimator="full", coef={"solve": 0.1}), critic=Critic(kind="separate")
    ),
}
FIRST = "ppo, k2, shared critic"
MESHES = {"fsdp 8": (1, 8, 1), "fsdp 4 x tensor 2": (1, 4, 2), "data 2 x fsdp 2 x tensor 2": (2, 2, 2)}
ONE = (1, 1, 1)


@lru_cache
def weights(seed: int = 0):
    """Weights large enough that no token is uniform."""
    return jax.tree.map(lambda x: x * 8 if x.ndim > 1 else x, init_params(CONFIG, jax.random.key(seed)))


@lru_cache
def items() -> tuple[Item, ...]:
    """40 trajectories of both roles, in two rows' worth a device of eight."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(40):
        length = int(rng.integers(6, 30))
        mask = np.arange(length) >= length - int(rng.integers(1, length))
        scores = (rng.normal(-2.5, 0.5, length) * mask).astype(np.float32)
        trajectory = Trajectory(
            role="propose" if i % 3 == 0 else "solve",
            policy=PolicyRef("main", 0),
            ids=rng.integers(0, CONFIG.vocab_size, length).astype(np.int32),
            mask=mask,
            behaviour_logprobs=scores,
            turn_starts=(int(np.argmax(mask)),),
            finish=("stop",),
            verdict=Verdict(1.0, "ok"),
            text="",
        )
        made.append(
            Item(
                trajectory=trajectory,
                advantages=(rng.normal() * mask).astype(np.float32),
                group=i // 4,
                in_loss=i % 7 != 0,
                returns=(rng.normal(size=length) * mask).astype(np.float32),
                reference_logprobs=scores - 0.3 * mask,
            )
        )
    return tuple(made)


class Pass:
    """One updater on one mesh, with its batch and what it says of it."""

    def __init__(self, update: Update, shape: tuple[int, int, int]) -> None:
        self.updater = Updater(CONFIG, update, ROLES, make_mesh(*shape))
        (self.batch,) = minibatches(
            items(), policy="main", planned=PLANNED, roles=ROLES, update=update, seed=0,
            multiple=self.updater.row_multiple,
        )  # fmt: skip
        self.references = weights(1) if update.kl.estimator == "full" else None
        self.state = self.updater.init(weights())
        self.gradients = self.updater.gradients(self.state, self.batch, self.references)

    def step(self):
        return self.updater.step(self.updater.init(weights()), [self.batch], references=self.references)


@lru_cache
def alone(kind: str) -> Pass:
    return Pass(KINDS[kind], ONE)


def assert_close(got, expected, share: float = 1e-5) -> None:
    """Each tensor within `share` of its largest entry."""
    named, tree = jax.tree_util.tree_flatten_with_path(expected)
    assert jax.tree.structure(got) == tree
    for (path, b), a in zip(named, jax.tree.leaves(got), strict=True):
        largest = float(np.abs(np.asarray(b)).max(initial=0.0))
        where = jax.tree_util.keystr(path)
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=share * largest, err_msg=where)


def agree(one: Pass, many: Pass) -> None:
    """Loss, curves and gradients of one device at once, and of a mesh or another split."""
    assert_close(many.gradients, one.gradients)
    expected, got = one.step()[1], many.step()[1]
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


SPLIT = {"micro_rows": 1, "logit_chunk": 4, "remat": "block"}


@pytest.fixture(scope="module")
def eight() -> Pass:
    """All three axes, one row a device at a time, four logits at a time, every block computed twice."""
    return Pass(replace(KINDS[FIRST], **SPLIT), MESHES["data 2 x fsdp 2 x tensor 2"])


def test_loss_and_gradients_agree_on_eight_devices(eight):
    agree(alone(FIRST), eight)


@pytest.mark.proof
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fields", [{}, SPLIT, {"micro_rows": 2}])
@pytest.mark.parametrize("mesh", MESHES)
def test_every_loss_on_every_mesh_in_any_split(mesh, fields, kind):
    agree(alone(kind), Pass(replace(KINDS[kind], **fields), MESHES[mesh]))


@pytest.mark.proof
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 3, 8])
def test_any_split_on_one_device(rows, kind):
    agree(alone(kind), Pass(replace(KINDS[kind], micro_rows=rows, logit_chunk=8), ONE))


def steps_agree(one: Pass, many: Pass) -> None:
    """Parameters after a step of SGD, and after Adam is fed the very same gradients."""
    after = [jax.tree.map(lambda p, g: np.asarray(p) - 0.1 * np.asarray(g), weights(), x.gradients[0])
             for x in (one, many)]  # fmt: skip
    assert_close(after[1], after[0])
    slabs = one.updater._slabs(one.batch, None)
    total = one.updater._total(one.state, slabs, one.references, old="behaviour", reach=None)
    same = jax.tree.map(np.asarray, total)
    fed = []
    for x in (one, many):
        placed = jax.tree.map(jax.device_put, same[:2], x.updater.programs._total_shardings[:2])
        state, _ = x.updater.programs.apply(
            x.updater.init(weights()), (*placed, same[2]), np.float32(1), policy=True, critic=same[1] is not None
        )
        fed.append(state)
    assert_close(fed[1], fed[0], 1e-6)


def test_a_step_gives_the_same_parameters_on_eight_devices(eight):
    steps_agree(alone(FIRST), eight)


@pytest.mark.proof
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mesh", MESHES)
def test_every_step_on_every_mesh(mesh, kind):
    steps_agree(alone(kind), Pass(KINDS[kind], MESHES[mesh]))


# ---------------------------------------------------------------- what a device holds


def test_state_and_gradients_lie_in_parts_and_rows_are_never_copied_whole(eight):
    """No device holds a whole matrix, moment, gradient or batch, and rows come in a multiple."""
    moments = eight.state.opt_state[0].mu
    for tree in (eight.state.params, moments, eight.gradients[0]):
        for array in (tree["embed"], tree["layers"]["0"]["attn"]["q"]["weight"]):
            assert {s.data.size for s in array.addressable_shards} == {array.size // 4}  # fsdp 2 x tensor 2
    rows = len(eight.batch.ids)
    assert eight.updater.row_multiple == 4 and rows % 4 == 0  # data 2 x fsdp 2
    slabs = eight.updater._together(eight.updater._slabs(eight.batch, None))
    assert {s.data.shape[1] for x in slabs.values() for s in x.addressable_shards} == {1}
    with pytest.raises(ValueError, match="a multiple of 4 rows, got 6"):
        eight.updater.gradients(eight.state, structs.replace(eight.batch, ids=eight.batch.ids[:6]))


@pytest.mark.parametrize(("mesh", "talks"), [((2, 1, 1), False), ((1, 2, 1), True)])
def test_devices_with_the_whole_model_exchange_nothing_until_a_batch_ends(mesh, talks):
    """An exchange in `add` would be one a slab."""
    updater = Updater(CONFIG, replace(BASE, micro_rows=1), ROLES, make_mesh(*mesh))
    program = updater.programs.lower("add", updater.row_multiple, 32).compile().as_text()
    exchanges = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
    assert any(f" {name}(" in program for name in exchanges) == talks


def test_parameters_and_optimizer_of_a_device_fall_with_the_devices():
    measured = list(measure(CONFIG_WIDE, BASE, devices=8, axis="fsdp", rows=1, row_tokens=32, scratch=False))
    assert [m["devices"] for m in measured] == [1, 2, 4, 8]
    for line in measured:
        assert line["state"] <= 1.05 * line["ideal"]  # norms are whole everywhere
        assert line["step"] <= 1.05 * measured[0]["step"] / line["devices"]


CONFIG_WIDE = replace(CONFIG, hidden_size=64, intermediate_size=256, vocab_size=256, layers=1)


def test_remat_keeps_less_of_every_block():
    """Bytes that the forward pass leaves for the backward one: XLA on CPU undoes the rest, accelerators do not."""
    (batch,) = minibatches(items(), policy="main", planned=PLANNED, roles=ROLES, update=BASE, seed=0)
    params, kept = weights(), {}
    for remat in ("none", "block"):
        updater = Updater(CONFIG, replace(KINDS["nll"], remat=remat), ROLES, make_mesh())
        (slab,) = updater._slabs(batch, None)

        def residuals(params, updater=updater, slab=slab):
            loss = lambda p: updater.programs._objective.loss(p, None, slab, None, old="behaviour")[0]  # noqa: E731
            return jax.tree.leaves(jax.vjp(loss, params)[1])

        shapes = jax.eval_shape(residuals, params)
        kept[remat] = sum(x.size * x.dtype.itemsize for x in shapes)
    assert kept["block"] < 0.6 * kept["none"]
