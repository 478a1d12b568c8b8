"""Gradient steps on packed batches, on a device mesh: one compiled program adds the gradient of a slab of rows, and
one applies the sum, so that neither depends on how many rows a batch has.

Three policies: mu sampled the tokens, old is the learner at the start of the update, theta is being changed. When
the data is not stale, old := mu, the sampler's own log-probabilities (the two differ by rounding only, which
`mismatch/*` shows) and the importance weight is 1. When it is, old is scored by the learner and every token is
weighted by stop_gradient(min(old / mu, c)).

Letters: B rows of T tokens, in slabs of R rows; n tokens of one trajectory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from selfplay.config import RoleConfig, Update
from selfplay.losses import regularised
from selfplay.models import ModelConfig, Params
from selfplay.models.decoder import abstract_params
from selfplay.models.sharding import batch_rows, parameter_shardings, place, shard_params
from selfplay.objective import Objective, Old, Rows, Stats, update_metrics
from selfplay.packing import first_fit, lay_out, row_bucket, row_width
from selfplay.records import ROLES, Batch, Trajectory

BATCH_AXES = ("data", "fsdp")
"""Mesh axes that share the rows of a batch."""

Total: TypeAlias = tuple[Params, Params | None, Stats]
"""Gradients of the policy and of the critic, and statistics, summed over slabs."""

SCORE_ROWS = 64
"""Most rows that are scored at a time."""

PLACED = ("ids", "positions", "segment_ids", "roles")
"""Fields of a Batch that scoring needs; a loss needs the rest too."""

WEIGHED = ("mask", "reg_mask", "behaviour_logprobs", "reference_logprobs", "advantages", "returns")
WEIGHTS = ("weights", "reg_weights", "value_weights")


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class PolicyState:
    """All that an update changes; a pytree. `Updater.step` consumes it: use only the state that it returns."""

    params: Params
    """float32."""
    opt_state: Any
    critic: Params | None
    """{"head": ...}, with {"trunk": ...} where it is separate."""
    critic_opt_state: Any
    steps: jax.Array
    """Optimizer steps that the policy took, int32 scalar."""


class Updater:
    """Turns Batches into gradient steps for one policy."""

    def __init__(
        self, config: ModelConfig, update: Update, roles: Mapping[str, RoleConfig], mesh: jax.sharding.Mesh
    ) -> None:
        self.config, self.update, self.mesh = config, update, mesh
        self._objective = Objective(config, update, roles)
        self._tx = _optimizer(update, update.learning_rate)
        shared = update.critic.kind == "shared"
        self._critic_tx = _optimizer(update, update.learning_rate if shared else update.critic.learning_rate)
        self._whole = NamedSharding(mesh, PartitionSpec())
        self._shardings = self._state_shardings()
        self._jit_add = jax.jit(self._add, static_argnames=("old",), donate_argnames=("total",))
        self._jit_apply = jax.jit(
            self._apply,
            static_argnames=("policy", "critic"),
            donate_argnames=("state",),
            out_shardings=(self._shardings, self._whole),
        )
        self._jit_logprobs = jax.jit(self._objective.logprobs, out_shardings=self._whole)
        self._jit_values = jax.jit(self._objective.values, out_shardings=self._whole)
        self._total_shapes: dict[Old, Any] = {}

    @property
    def row_multiple(self) -> int:
        """Rows of a Batch must come in multiples of this: devices that share a batch x micro_rows."""
        return batch_rows(1, self.mesh) * max(self.update.micro_rows, 1)

    def init(self, params: Params) -> PolicyState:
        """The state that starts from these weights; they are copied, so the caller's stay readable."""

        def build(params: Params) -> PolicyState:
            params = jax.tree.map(lambda x: jnp.array(x, jnp.float32, copy=True), params)
            critic = self._new_critic(params)
            return PolicyState(
                params=params,
                opt_state=self._tx.init(params),
                critic=critic,
                critic_opt_state=None if critic is None else self._critic_tx.init(critic),
                steps=jnp.zeros((), jnp.int32),
            )

        if self.mesh.is_multi_process:
            params = shard_params(params, self.mesh)
        state: PolicyState = jax.jit(build, out_shardings=self._shardings)(params)
        return state

    def publish(self, state: PolicyState) -> Params:
        """A copy of the weights that no later step touches: what may be leased as a version."""
        copy: Params = jax.tree.map(jnp.copy, state.params)
        return copy

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
        before = [self.score(state.params, b) if old == "given" else None for b in batches]
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
        rate = _learning_rate(self.update, self.update.learning_rate)(max(int(state.steps) - 1, 0))
        metrics = {
            "update/skipped": len(batches) - len(host) + nonfinite,
            "update/nonfinite": nonfinite,
            "optim/lr": float(rate * scale),
        }
        return state, metrics | update_metrics(host, self.update) | _explained_variance(batches)

    def logprobs(self, params: Params, trajectories: Sequence[Trajectory]) -> list[np.ndarray]:
        """[n] float32 nats of every policy token, at its role's temperature; 0 elsewhere."""
        return self._by_rows(lambda rows: self._jit_logprobs(params, rows), trajectories)

    def values(self, state: PolicyState, trajectories: Sequence[Trajectory]) -> list[np.ndarray]:
        """[n] float32: the critic's estimate before each policy token; 0 elsewhere."""
        if state.critic is None:
            raise ValueError("update.critic.kind is none: there are no values")
        return self._by_rows(lambda rows: self._jit_values(state.params, state.critic, rows), trajectories)

    def score(self, params: Params, batch: Batch) -> np.ndarray:
        """[B, T] log-probabilities of a whole Batch, as `logprobs`."""
        rows = self._put({name: getattr(batch, name) for name in PLACED})
        return np.where(batch.reg_mask, np.asarray(self._jit_logprobs(params, rows)), np.float32(0))

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
        norms = {role: float(optax.tree.norm(gradient)) for role, gradient in total.items()}
        metrics = {f"grad_norm/{role}": norm for role, norm in norms.items()}
        if len(total) == 2 and min(norms.values()) > 0:
            dot = float(optax.tree.vdot(total["propose"], total["solve"]))
            metrics["grad_cosine/propose_solve"] = dot / (norms["propose"] * norms["solve"])
        return metrics

    # ------------------------------------------------------------ inside the compiled programs

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
            weights, moments = _advance(self._tx, gradient, moments, weights, scale, finite)
        if critic:
            head, head_moments = _advance(self._critic_tx, critic_gradient, head_moments, head, scale, finite)
        steps = state.steps + finite if policy else state.steps
        stats["sum"] |= norms | {"nonfinite": 1.0 - finite}
        return PolicyState(
            params=weights, opt_state=moments, critic=head, critic_opt_state=head_moments, steps=steps
        ), stats

    def _slab(self, params: Params, critic: Params | None, rows: Rows, references: Params | None, old: Old) -> Total:
        """Gradients and statistics of one slab ([R T] arrays)."""
        differentiate = jax.value_and_grad(self._objective.loss, argnums=(0, 1), has_aux=True)
        (_, stats), (policy, value) = differentiate(params, critic, rows, references, old=old)
        return policy, value, stats

    def _add(
        self, total: Total, params: Params, critic: Params | None, rows: Rows, references: Params | None, *, old: Old
    ) -> Total:
        return _merge(total, self._slab(params, critic, rows, references, old))

    def _total(self, state: PolicyState, slabs: Sequence[Rows], references: Params | None, *, old: Old) -> Total:
        """Gradients and statistics summed over the slabs of a batch, at the current weights."""
        if old not in self._total_shapes:  # tracing costs as much as several slabs; the sum has one shape for all
            traced = partial(self._slab, old=old)
            self._total_shapes[old] = jax.eval_shape(traced, state.params, state.critic, slabs[0], references)
        zeros = partial(jnp.zeros, device=self._whole)
        total: Total = jax.tree.map(lambda leaf: zeros(leaf.shape, leaf.dtype), self._total_shapes[old])
        for slab in slabs:
            total = self._jit_add(total, state.params, state.critic, slab, references, old=old)
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
        params = parameter_shardings(abstract_params(self.config), self.mesh)
        whole: Any = self._whole
        critic: Params | None = None
        if self.update.critic.kind != "none":
            critic = {"head": {"kernel": whole, "bias": whole}}
            if self.update.critic.kind == "separate":
                critic["trunk"] = params
        return PolicyState(
            params=params,
            opt_state=self._moment_shardings(self._tx, params),
            critic=critic,
            critic_opt_state=None if critic is None else self._moment_shardings(self._critic_tx, critic),
            steps=whole,
        )

    def _moment_shardings(self, tx: optax.GradientTransformation, shardings: Params) -> Any:
        scalars = jax.tree.map(lambda _: jax.ShapeDtypeStruct((), jnp.float32), shardings)
        state = jax.eval_shape(tx.init, scalars)
        return optax.tree.map_params(
            tx, lambda _, sharding: sharding, state, shardings, transform_non_params=lambda _: self._whole
        )

    def _put(self, rows: Mapping[str, np.ndarray]) -> Rows:
        split = NamedSharding(self.mesh, PartitionSpec(BATCH_AXES))
        if self.mesh.is_multi_process:
            return dict(place(dict(rows), dict.fromkeys(rows, split)))
        placed: Rows = jax.device_put(dict(rows), split)
        return placed

    def _slabs(self, batch: Batch, old_logprobs: np.ndarray | None, *, weights: np.ndarray | None = None) -> list[Rows]:
        """A Batch as slabs of `row_multiple` rows (all rows without micro_rows) on the mesh; given other `weights`,
        without regularisers and critic."""
        rows = len(batch.ids)
        if rows % self.row_multiple:
            raise ValueError(f"a batch needs a multiple of {self.row_multiple} rows, got {rows}")
        arrays: dict[str, np.ndarray] = {name: getattr(batch, name) for name in (*PLACED, *WEIGHED, *WEIGHTS)}
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
        lengths = [len(t.ids) for t in trajectories]
        width = row_width(max(lengths), self.update.row_tokens)
        places, used = first_fit(lengths, width)
        size = self.row_multiple if self.update.micro_rows else row_bucket(min(used, SCORE_ROWS), self.row_multiple)
        rows = lay_out(trajectories, places, -(-used // size) * size, width)
        slabs = (self._put({name: getattr(rows, name)[i : i + size] for name in PLACED}) for i in range(0, used, size))
        out = np.concatenate([np.asarray(program(slab)) for slab in slabs])
        return [np.where(t.mask, out[at], np.float32(0)) for t, at in zip(trajectories, rows.places, strict=True)]


# ---------------------------------------------------------------- pure parts


def decay(update: Update, done: float) -> float:
    """Factor on the learning rate once a share `done` of the run is behind: 1 at first, decay_floor at its end."""
    if update.decay == "none":
        return 1.0
    return max(update.decay_floor, 1.0 - (1.0 - update.decay_floor) * done)


def _learning_rate(update: Update, peak: float) -> Callable[[Any], Any]:
    """peak * min(1, (k + 1) / warmup_steps) at the optimizer's step k = 0, 1, ..."""
    return lambda count: peak * jnp.minimum(1.0, (count + 1) / max(update.warmup_steps, 1))


def _optimizer(update: Update, peak: float) -> optax.GradientTransformation:
    adamw = optax.adamw(
        _learning_rate(update, peak),
        b1=update.beta1,
        b2=update.beta2,
        eps=update.adam_eps,
        weight_decay=update.weight_decay,
    )
    return optax.chain(optax.clip_by_global_norm(update.max_grad_norm), adamw)


def _advance(
    tx: optax.GradientTransformation, gradient: Any, opt_state: Any, params: Any, scale: jax.Array, finite: jax.Array
) -> tuple[Any, Any]:
    """One optimizer step, or none at all where a gradient is not finite."""
    updates, new_state = tx.update(gradient, opt_state, params)
    updates = jax.tree.map(lambda x: scale * x, updates)
    new = optax.apply_updates(params, updates), new_state
    kept: tuple[Any, Any] = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, (params, opt_state))
    return kept


def _merge(a: Total, b: Total) -> Total:
    """Add gradients and sums, take the larger of maxima."""
    stats: Stats = {
        "sum": jax.tree.map(jnp.add, a[2]["sum"], b[2]["sum"]),
        "max": jax.tree.map(jnp.maximum, a[2]["max"], b[2]["max"]),
    }
    return jax.tree.map(jnp.add, a[0], b[0]), jax.tree.map(jnp.add, a[1], b[1]), stats


def _explained_variance(batches: Sequence[Batch]) -> dict[str, float]:
    """1 - Var(return - value) / Var(return) of the values fixed at the batch's start, by role; 1 = foretold exactly."""
    metrics = {}
    for index, role in enumerate(ROLES):
        chosen = [(b.value_weights > 0) & (b.roles == index) for b in batches]
        returns = np.concatenate([b.returns[c] for b, c in zip(batches, chosen, strict=True)])
        values = np.concatenate([b.old_values[c] for b, c in zip(batches, chosen, strict=True)])
        if returns.size and returns.var() > 0:
            metrics[f"critic/explained_variance/{role}"] = float(1 - (returns - values).var() / returns.var())
    return metrics
