"""Gradient steps on packed batches, on a device mesh: one compiled program adds the gradient of a slab of rows, and
one applies the sum, so that neither depends on how many rows a batch has.

Three policies: mu sampled the tokens, old is the learner at the start of the update, theta is being changed. When
the data is not stale, old := mu, the sampler's own log-probabilities (the two differ by rounding only, which
`mismatch/*` shows) and the importance weight is 1. When it is, old is scored by the learner and every token is
weighted by stop_gradient(min(old / mu, c)).

What is trained is kept in float32: all weights, or with LoRA the adapter alone, beside the base as it was opened. A
forward pass takes `weights`: both as one tree, in the policy's dtype.

Letters: B rows of T tokens, in slabs of R rows; n tokens of one trajectory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from selfplay.config import RoleConfig, Update
from selfplay.layout import lay_out, plan_rows, row_bucket, row_width
from selfplay.losses import regularised
from selfplay.models import ModelConfig, Params
from selfplay.models.decoder import abstract_params
from selfplay.models.lora import init_adapter, join, split, trained_part
from selfplay.models.sharding import batch_parts, batch_sharding, check_mesh, parameter_shardings, place
from selfplay.objective import Objective, Old, Rows, Stats, explained_variance, interference_metrics, update_metrics
from selfplay.optimizer import advance, decay, learning_rate, make_optimizer, moment_shardings
from selfplay.records import ROLES, Batch, Trajectory

Total: TypeAlias = tuple[Params, Params | None, Stats]
"""Gradients of the policy and of the critic, and statistics, summed over slabs."""

Program: TypeAlias = Literal["init", "add", "apply"]
"""The compiled programs of an update."""

SCORE_ROWS = 64
"""Most rows that are scored at a time."""

PLACED = dict.fromkeys(("ids", "positions", "segment_ids", "prefix_ids", "roles"), np.int32) | {"reg_mask": np.bool_}
"""Fields of a Batch that scoring needs, and their types; a loss needs the rest too."""

WEIGHTS = ("weights", "reg_weights", "value_weights")
WEIGHED = {"mask": np.bool_} | dict.fromkeys(
    ("behaviour_logprobs", "reference_logprobs", "advantages", "returns", *WEIGHTS), np.float32
)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class PolicyState:
    """All that an update changes; a pytree. `Updater.step` consumes it: use only the state that it returns."""

    params: Params
    """What is trained, float32: all weights, or the adapter."""
    opt_state: Any
    critic: Params | None
    """{"head": ...}, with {"trunk": ...} where it is separate."""
    critic_opt_state: Any
    steps: jax.Array
    """Optimizer steps that the policy took, int32 scalar."""


class Shapes(NamedTuple):
    """What an optimizer step reads: shapes, with the place of each array on the mesh."""

    state: PolicyState
    frozen: Params
    """With LoRA, the base; else nothing."""
    slab: dict[str, jax.ShapeDtypeStruct]
    references: Params | None


class Updater:
    """Turns Batches into gradient steps for one policy."""

    def __init__(
        self,
        config: ModelConfig,
        update: Update,
        roles: Mapping[str, RoleConfig],
        mesh: jax.sharding.Mesh,
        *,
        dtype: Any = jnp.float32,
    ) -> None:
        self.config, self.update, self.mesh, self.dtype = config, update, mesh, jnp.dtype(dtype)
        check_mesh(config, mesh)
        self._objective = Objective(config, update, roles, mesh)
        self._tx = make_optimizer(update, update.learning_rate)
        shared = update.critic.kind == "shared"
        self._critic_tx = make_optimizer(update, update.learning_rate if shared else update.critic.learning_rate)
        self._whole = NamedSharding(mesh, PartitionSpec())
        self._shardings = self._state_shardings()
        state = self._shardings
        self._total_shardings = (state.params, state.critic, self._whole)
        self._jit_init = jax.jit(self._new_state, out_shardings=self._shardings)
        self._jit_add = jax.jit(
            self._add, static_argnames=("old",), donate_argnames=("total",), out_shardings=self._total_shardings
        )
        self._jit_apply = jax.jit(
            self._apply,
            static_argnames=("policy", "critic"),
            donate_argnames=("state",),
            out_shardings=(self._shardings, self._whole),
        )
        self._jit_logprobs = jax.jit(self._objective.logprobs, out_shardings=self._whole)
        self._jit_values = jax.jit(self._objective.values, out_shardings=self._whole)
        self._zeros: dict[Old, Callable[[], Total]] = {}
        self._frozen: Params = {}

    @property
    def row_multiple(self) -> int:
        """Rows of a Batch must come in multiples of this: devices that share a batch x micro_rows."""
        return batch_parts(self.mesh) * max(self.update.micro_rows, 1)

    def init(self, params: Params, key: jax.Array | None = None) -> PolicyState:
        """The state that starts from the weights of a base model, in the policy's dtype and on the mesh.

        They are copied, so the caller's stay readable. With LoRA they are not copied but kept as what the adapter,
        drawn from `key`, stands beside.
        """
        if self.config.lora is not None:
            if key is None:
                raise ValueError("an adapter starts at random: init needs a key")
            self._frozen = params
            params = place(init_adapter(self.config, key), self._shardings.params)
        state: PolicyState = self._jit_init(params)
        return state

    def publish(self, state: PolicyState) -> Params:
        """A copy of what is trained, in the policy's dtype, that no later step touches: what may be leased."""
        copy: Params = jax.tree.map(lambda x: jnp.array(x, self.dtype, copy=True), state.params)
        return copy

    def weights(self, published: Params) -> Params:
        """What a forward pass takes: something published, or a state's `params`, with all that is not trained."""
        return join(self._frozen, self._cast(published))

    def step(
        self,
        state: PolicyState,
        batches: Sequence[Batch],
        *,
        references: Params | None = None,
        done: float = 0.0,
        critic_only: bool = False,
        stale: bool = False,
    ) -> tuple[PolicyState, dict[str, float]]:
        """One optimizer step a batch, in order; `state` is consumed (its buffers are reused).

        A batch that leaves nothing to learn makes no step, touches no moment and counts in `update/skipped`, as
        does a gradient that is not finite (`update/nonfinite`).

        Args:
          batches: from `packing.minibatches`.
          references: weights of the reference policy; read by kl.estimator = full only.
          done: share of the run that is behind, for update.decay.
          critic_only: the policy stays as it is (critic warm-up).
          stale: the data was sampled by other weights than `state.params`.
        """
        old: Old = "behaviour" if not stale else "self" if len(batches) == 1 else "given"
        scale = np.float32(decay(self.update, done))
        before = [self.score(self.weights(state.params), b) if old == "given" else None for b in batches]
        stats: list[Stats] = []
        for batch, old_logprobs in zip(batches, before, strict=True):
            policy, critic = self._learns(batch)
            policy = policy and not critic_only
            if policy or critic:
                total = self._total(state, self._slabs(batch, old_logprobs), references, old=old)
                state, taken = self._jit_apply(state, total, scale, policy=policy, critic=critic)
                stats.append(taken)
        host: list[Stats] = jax.device_get(stats)
        nonfinite = float(sum(s["sum"]["nonfinite"] for s in host))
        rate = learning_rate(self.update, self.update.learning_rate)(max(int(state.steps) - 1, 0))
        metrics = {
            "update/skipped": len(batches) - len(host) + nonfinite,
            "update/nonfinite": nonfinite,
            "optim/lr": float(rate * scale),
        }
        return state, metrics | update_metrics(host, self.update) | explained_variance(batches)

    def logprobs(self, weights: Params, trajectories: Sequence[Trajectory]) -> list[np.ndarray]:
        """[n] float32 nats of every policy token under `weights`, at its role's temperature; 0 elsewhere."""
        return self._by_rows(lambda rows: self._jit_logprobs(weights, rows), trajectories)

    def values(self, state: PolicyState, trajectories: Sequence[Trajectory]) -> list[np.ndarray]:
        """[n] float32: the critic's estimate before each policy token; 0 elsewhere."""
        if state.critic is None:
            raise ValueError("update.critic.kind is none: there are no values")
        weights = self.weights(state.params)
        return self._by_rows(lambda rows: self._jit_values(weights, state.critic, rows), trajectories)

    def score(self, weights: Params, batch: Batch) -> np.ndarray:
        """[B, T] log-probabilities of a whole Batch, as `logprobs`."""
        rows = self._put({name: getattr(batch, name) for name in PLACED})
        return np.where(batch.reg_mask, np.asarray(self._jit_logprobs(weights, rows)), np.float32(0))

    def gradients(
        self, state: PolicyState, batch: Batch, references: Params | None = None
    ) -> tuple[Params, Params | None]:
        """Gradients of one Batch's loss at the current weights, before clipping: the policy's and the critic's."""
        policy, critic, _ = self._total(state, self._slabs(batch, None), references, old="behaviour")
        return policy, critic

    def interference(
        self, state: PolicyState, batches: Sequence[Batch], references: Params | None = None
    ) -> dict[str, float]:
        """Do the roles pull the shared weights apart? Norms of each role's policy gradient, and their cosine.

        Over the sum of the batches, at the current weights, without KL, entropy or critic. A role without weight
        in them is left out.
        """
        total: dict[str, Any] = {}
        for batch in batches:
            for index, role in enumerate(ROLES):
                weights = np.where(batch.roles == index, batch.weights, np.float32(0))
                if weights.any():
                    slabs = self._slabs(batch, None, weights=weights)
                    gradient = self._total(state, slabs, references, old="behaviour")[0]
                    total[role] = gradient if role not in total else jax.tree.map(jnp.add, total[role], gradient)
        return interference_metrics(total)

    def shapes(self, rows: int, width: int) -> Shapes:
        """All that the gradient of a slab of [rows, width] is made from, from the config alone."""
        complete = abstract_params(self.config)
        trained, dtype = trained_part(self.config, complete), self.dtype
        frozen = {} if trained is complete else split(complete)[1]
        frozen = _placed(frozen, parameter_shardings(frozen, self.mesh), dtype)
        by_rows = batch_sharding(self.mesh)
        slab = {n: jax.ShapeDtypeStruct((rows, width), t, sharding=by_rows) for n, t in (PLACED | WEIGHED).items()}
        state: PolicyState = _placed(jax.eval_shape(self._new_state, trained), self._shardings)
        full = self.update.kl.place == "loss" and self.update.kl.estimator == "full"
        references = (frozen or _placed(trained, self._shardings.params, dtype)) if full else None
        return Shapes(state, frozen, slab, references)

    def total_shapes(self, shapes: Shapes) -> Total:
        """The sum of gradients and statistics that slabs of these shapes add to."""
        state, frozen, slab, references = shapes
        given = state.params, frozen, state.critic, slab, references
        sums: Total = jax.eval_shape(partial(self._slab, old="behaviour"), *given)
        policy, critic = (_placed(a, b) for a, b in zip(sums[:2], self._total_shardings[:2], strict=True))
        return policy, critic, sums[2]

    def lower(self, program: Program, rows: int, width: int) -> jax.stages.Lowered:
        """A program of an optimizer step on slabs of [rows, width], from shapes alone: no weights are needed.

        What it holds on a device is in `.compile().memory_analysis()`.

        Args:
          program: init makes the state, add adds the gradient of a slab to the sum, apply takes the step.
        """
        if program == "init":
            trained = trained_part(self.config, abstract_params(self.config))
            return self._jit_init.lower(_placed(trained, self._shardings.params))
        shapes = self.shapes(rows, width)
        state, frozen, slab, references = shapes
        total = self.total_shapes(shapes)
        if program == "add":
            return self._jit_add.lower(total, state.params, frozen, state.critic, slab, references, old="behaviour")
        return self._jit_apply.lower(state, total, np.float32(1), policy=True, critic=state.critic is not None)

    def kept(self, rows: int, width: int) -> int:
        """Bytes that the forward pass of a slab leaves for the backward one, over all devices, from shapes alone."""
        state, frozen, slab, references = self.shapes(rows, width)

        def residuals(trained: Any, frozen: Params, slab: Rows, references: Params | None) -> list[Any]:
            loss = partial(self._loss, frozen=frozen, rows=slab, references=references, old="behaviour")
            return jax.tree.leaves(jax.vjp(lambda given: loss(*given)[0], trained)[1])

        shapes = jax.eval_shape(residuals, (state.params, state.critic), frozen, slab, references)
        return sum(x.size * x.dtype.itemsize for x in shapes)

    # ------------------------------------------------------------ inside the compiled programs

    def _new_state(self, params: Params) -> PolicyState:
        params = jax.tree.map(lambda x: jnp.array(x, jnp.float32, copy=True), params)
        critic = self._new_critic(params)
        return PolicyState(
            params=params,
            opt_state=self._tx.init(params),
            critic=critic,
            critic_opt_state=None if critic is None else self._critic_tx.init(critic),
            steps=jnp.zeros((), jnp.int32),
        )

    def _apply(
        self, state: PolicyState, total: Total, scale: jax.Array, *, policy: bool, critic: bool
    ) -> tuple[PolicyState, Stats]:
        """One optimizer step with a batch's summed gradients, at `scale` times the learning rate."""
        gradient, critic_gradient, stats = total
        norms = {"grad_norm": optax.tree.norm(gradient), "critic_grad_norm": optax.tree.norm(critic_gradient)}
        finite = jnp.isfinite(norms["grad_norm"]) & jnp.isfinite(norms["critic_grad_norm"])
        weights, moments = state.params, state.opt_state
        head, head_moments = state.critic, state.critic_opt_state
        if policy:
            weights, moments = advance(self._tx, gradient, moments, weights, scale, finite)
        if critic:
            head, head_moments = advance(self._critic_tx, critic_gradient, head_moments, head, scale, finite)
        steps = state.steps + finite if policy else state.steps
        stats["sum"] |= norms | {"nonfinite": 1.0 - finite}
        return PolicyState(
            params=weights, opt_state=moments, critic=head, critic_opt_state=head_moments, steps=steps
        ), stats

    def _slab(
        self,
        params: Params,
        frozen: Params,
        critic: Params | None,
        rows: Rows,
        references: Params | None,
        *,
        old: Old,
    ) -> Total:
        """Gradients and statistics of one slab ([R T] arrays)."""

        loss = partial(self._loss, frozen=frozen, rows=rows, references=references, old=old)
        (_, stats), (policy, value) = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, critic)
        return policy, value, stats

    def _loss(
        self,
        params: Params,
        critic: Params | None,
        *,
        frozen: Params,
        rows: Rows,
        references: Params | None,
        old: Old,
    ) -> tuple[jax.Array, Stats]:
        """Loss and statistics of one slab, as a function of what is trained."""
        if critic is not None and "trunk" in critic:
            critic = critic | {"trunk": self._cast(critic["trunk"])}
        return self._objective.loss(join(frozen, self._cast(params)), critic, rows, references, old=old)

    def _add(self, total: Total, *slab: Any, old: Old) -> Total:
        """`total` and what `_slab` makes of these arguments."""
        return _merge(total, self._slab(*slab, old=old))

    def _cast(self, params: Params) -> Params:
        """In the policy's dtype: the same arrays where they have it already."""
        cast: Params = jax.tree.map(lambda x: jnp.asarray(x, self.dtype), params)
        return cast

    def _total(self, state: PolicyState, slabs: Sequence[Rows], references: Params | None, *, old: Old) -> Total:
        """Gradients and statistics summed over the slabs of a batch, at the current weights."""
        if old not in self._zeros:  # tracing costs as much as several slabs; the sum has one shape for all
            traced = partial(self._slab, old=old)
            shapes = jax.eval_shape(traced, state.params, self._frozen, state.critic, slabs[0], references)
            zeros = partial(jax.tree.map, lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
            self._zeros[old] = jax.jit(zeros, out_shardings=self._total_shardings)
        total = self._zeros[old]()
        for slab in slabs:
            total = self._jit_add(total, state.params, self._frozen, state.critic, slab, references, old=old)
        return total

    # ------------------------------------------------------------ what lives where

    def _learns(self, batch: Batch) -> tuple[bool, bool]:
        """Has this batch anything for the policy's weights, and for the critic's own?"""
        critic = self.update.critic.kind != "none" and bool(batch.value_weights.any())
        pulled = regularised(self.update) and bool(batch.reg_weights.any())
        return bool(batch.weights.any()) or pulled or (critic and self.update.critic.kind == "shared"), critic

    def _new_critic(self, params: Params) -> Params | None:
        """A head that says 0 everywhere, on the policy's trunk or on a copy of it."""
        if self.update.critic.kind == "none":
            return None
        critic: Params = {"head": {"kernel": jnp.zeros(self.config.hidden_size), "bias": jnp.zeros(())}}
        if self.update.critic.kind == "separate":
            critic["trunk"] = jax.tree.map(jnp.copy, params)
        return critic

    def _state_shardings(self) -> PolicyState:
        """The sharding of every array of the state: moments beside their parameters, all else whole."""
        params = parameter_shardings(trained_part(self.config, abstract_params(self.config)), self.mesh)
        whole: Any = self._whole
        critic: Params | None = None
        if self.update.critic.kind != "none":
            critic = {"head": {"kernel": whole, "bias": whole}}
            if self.update.critic.kind == "separate":
                critic["trunk"] = params
        return PolicyState(
            params=params,
            opt_state=moment_shardings(self._tx, params, whole),
            critic=critic,
            critic_opt_state=None if critic is None else moment_shardings(self._critic_tx, critic, whole),
            steps=whole,
        )

    def _put(self, rows: Mapping[str, np.ndarray]) -> Rows:
        placed: Rows = place(dict(rows), dict.fromkeys(rows, batch_sharding(self.mesh)))
        return placed

    def _slabs(self, batch: Batch, old_logprobs: np.ndarray | None, *, weights: np.ndarray | None = None) -> list[Rows]:
        """A Batch as slabs of `row_multiple` rows (all rows without micro_rows) on the mesh; given other `weights`,
        without regularisers and critic."""
        rows = len(batch.ids)
        if rows % self.row_multiple:
            raise ValueError(f"a batch needs a multiple of {self.row_multiple} rows, got {rows}")
        arrays: dict[str, np.ndarray] = {name: getattr(batch, name) for name in (*PLACED, *WEIGHED)}
        if weights is not None:
            arrays |= {name: np.zeros_like(weights) for name in WEIGHTS} | {"weights": weights}
        if old_logprobs is not None:
            arrays["old_logprobs"] = old_logprobs
        size = self.row_multiple if self.update.micro_rows else rows
        used = [i for i in range(0, rows, size) if batch.segment_ids[i : i + size].any()] or [0]
        return [self._put({name: array[i : i + size] for name, array in arrays.items()}) for i in used]

    def _by_rows(self, program: Callable[[Rows], jax.Array], trajectories: Sequence[Trajectory]) -> list[np.ndarray]:
        """Pack, run `program` on at most SCORE_ROWS rows at a time, and hand every trajectory its own numbers."""
        if not trajectories:
            return []
        width = row_width(max(len(t.ids) for t in trajectories), self.update.row_tokens)
        plan = plan_rows(trajectories, width, share=self.update.shared_prefix)
        many = min(plan.rows, SCORE_ROWS)
        size = self.row_multiple if self.update.micro_rows else row_bucket(many, self.row_multiple)
        rows = lay_out(trajectories, plan, -(-plan.rows // size) * size)
        begins = range(0, plan.rows, size)
        slabs = (self._put({name: getattr(rows, name)[i : i + size] for name in PLACED}) for i in begins)
        out = np.concatenate([np.asarray(program(slab)) for slab in slabs])
        return [np.where(t.mask, s.read(out), np.float32(0)) for t, s in zip(trajectories, rows.spots, strict=True)]


# ---------------------------------------------------------------- pure parts


def _placed(shapes: Any, shardings: Any, dtype: Any = None) -> Any:
    """Shapes with the place of each array, and another type where one is given."""
    return jax.tree.map(lambda x, p: jax.ShapeDtypeStruct(x.shape, dtype or x.dtype, sharding=p), shapes, shardings)


def _merge(a: Total, b: Total) -> Total:
    """Add gradients and sums, take the larger of maxima."""
    stats: Stats = {
        "sum": jax.tree.map(jnp.add, a[2]["sum"], b[2]["sum"]),
        "max": jax.tree.map(jnp.maximum, a[2]["max"], b[2]["max"]),
    }
    return jax.tree.map(jnp.add, a[0], b[0]), jax.tree.map(jnp.add, a[1], b[1]), stats
