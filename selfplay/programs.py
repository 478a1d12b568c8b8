"""The compiled programs of an update, on a device mesh: one makes the state, one adds the gradients of a few slabs of
rows, one joins the sums of several devices, and two apply the sum, so that none depends on how many rows a batch has.
Shapes and places of all that they take follow from the config alone.

What is trained is kept in float32: all weights, or with LoRA the adapter alone, beside the base as it was opened. A
forward pass takes both as one tree, in the policy's dtype. Letters: R rows of T tokens of a slab.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from selfplay.config import RoleConfig, Update
from selfplay.layout import Rows as LaidOut
from selfplay.losses import PAIRWISE
from selfplay.models import ModelConfig, Params
from selfplay.models.attention import Reach
from selfplay.models.decoder import abstract_params
from selfplay.models.lora import join, split, trained_part
from selfplay.models.sharding import parameter_shardings, slabs_sharding
from selfplay.objective import Objective, Old, Rows, Stats
from selfplay.optimizer import clipped, followed, make_optimizer, moment_shardings, moved
from selfplay.records import Batch

Total: TypeAlias = tuple[Params, Params | None, Stats]
"""Gradients of the policy and of the critic, and statistics, summed over slabs."""

Program: TypeAlias = Literal["init", "add", "move", "follow"]
"""The compiled programs of an update."""

PLACED = {"reg_mask": np.bool_} | dict.fromkeys(
    ("ids", "positions", "segment_ids", "prefix_ids", "targets", "roles"), np.int32
)
"""Fields of a Batch that scoring needs, and their types; a loss needs the rest too."""

WEIGHTS = ("weights", "reg_weights", "value_weights")
WEIGHED = {"mask": np.bool_, "counts": np.int32} | dict.fromkeys(
    ("behaviour_logprobs", "reference_logprobs", "advantages", "returns", *WEIGHTS), np.float32
)


SLABS = 8
"""Most slabs that a call of `add` takes, one after the other: a CPU asks the system for a call's scratch anew."""

CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}
"""Of gradients on a CPU, and of scores, which must round alike: XLA's library YNN makes their products, not their sums
(docs/performance.md)."""


def placed(rows: Batch | LaidOut) -> dict[str, np.ndarray]:
    """What scoring reads of some rows."""
    kept = {} if rows.kept is None else {"kept": rows.kept}
    return {name: getattr(rows, name) for name in PLACED} | kept


def slab_fields(update: Update) -> dict[str, Any]:
    """All fields of a Batch that a gradient needs, and their types."""
    return PLACED | WEIGHED | ({"pair_ids": np.int32} if update.loss in PAIRWISE else {})


Weights: TypeAlias = tuple[Params, Params | None]
"""What is trained: the policy's and the critic's."""

Moments: TypeAlias = tuple[Any, Any, jax.Array]
"""The optimizer's state of the policy and of the critic, and the steps taken."""


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

    @property
    def weights(self) -> Weights:
        return self.params, self.critic

    @property
    def moments(self) -> Moments:
        return self.opt_state, self.critic_opt_state, self.steps


class Shapes(NamedTuple):
    """What an optimizer step reads: shapes, with the place of each array on the mesh."""

    state: PolicyState
    frozen: Params
    """With LoRA, the base; else nothing."""
    slabs: dict[str, jax.ShapeDtypeStruct]
    """What a call of `add` takes of them: [SLABS R T] arrays."""
    references: Params | None

    @property
    def slab(self) -> dict[str, jax.ShapeDtypeStruct]:
        """One of the slabs."""
        return {name: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for name, x in self.slabs.items()}


class Programs:
    """What an update of one policy computes on the devices."""

    def __init__(
        self,
        config: ModelConfig,
        update: Update,
        roles: Mapping[str, RoleConfig],
        mesh: Mesh,
        dtype: Any,
        *,
        as_elsewhere: bool = False,
    ) -> None:
        """`as_elsewhere`: compute on a CPU as on a GPU or a TPU."""
        on_cpu = jax.default_backend() == "cpu" and not as_elsewhere
        options = CPU_OPTIONS if on_cpu else None
        self.config, self.update, self.mesh, self.dtype = config, update, mesh, jnp.dtype(dtype)
        self._objective = Objective(config, update, roles, mesh, by_blocks=on_cpu)
        self._apart = mesh.shape["data"] == mesh.size > 1
        """Every device has the whole model: it adds up the gradients of its own rows, and they meet once a batch."""
        own = Mesh(mesh.devices.reshape(-1)[:1].reshape(1, 1, 1), mesh.axis_names)
        self._own = Objective(config, update, roles, own, by_blocks=on_cpu) if self._apart else self._objective
        self._tx = make_optimizer(update, update.learning_rate)
        shared = update.critic.kind == "shared"
        self._critic_tx = make_optimizer(update, update.learning_rate if shared else update.critic.learning_rate)
        self._whole = NamedSharding(mesh, PartitionSpec())
        self.shardings = self._state_shardings()
        """Of a PolicyState."""
        self._total_shardings = (self.shardings.params, self.shardings.critic, self._whole)
        by_device = (NamedSharding(mesh, PartitionSpec("data")),) * 3
        self._sum_shardings = by_device if self._apart else self._total_shardings
        summing = partial(
            jax.jit, static_argnames=("old", "reach"), out_shardings=self._sum_shardings, compiler_options=options
        )
        scoring = partial(jax.jit, static_argnames="reach", out_shardings=self._whole, compiler_options=options)
        self._traced = jax.jit(self._slab, static_argnames=("old", "reach"))
        """What `gradient` and `add` are made of: traced once for both."""
        self.gradient = summing(self._alone)
        """A slab with the weights -> Total; see `_gradient`."""
        self.copy = jax.jit(self._copied, out_shardings=self.shardings.params)
        """What is trained -> the same in the policy's dtype, in arrays of its own."""
        self.init = jax.jit(self._new_state, out_shardings=self.shardings)
        """What is trained -> PolicyState."""
        self.add = summing(self._add, donate_argnames="total")
        """Total, how many slabs there are, and up to SLABS of them with the weights -> Total; see `_gradient`."""
        self._join = jax.jit(_joined, donate_argnums=0, out_shardings=self._total_shardings)
        at = self.shardings
        self._move = jax.jit(
            self._moved,
            static_argnames=("policy", "critic"),
            donate_argnames=("weights", "total"),
            out_shardings=((at.params, at.critic), self._total_shardings, self._whole),
        )
        self._follow = jax.jit(
            self._followed,
            static_argnames=("policy", "critic"),
            donate_argnames=("moments",),
            out_shardings=(at.opt_state, at.critic_opt_state, at.steps),
        )
        self.logprobs = scoring(self._objective.logprobs)
        """Weights and rows -> [R T] nats."""
        self.values = scoring(self._objective.values)
        """Weights, critic and rows -> [R T]."""
        self._zeros: dict[Old, Callable[[], Total]] = {}

    def cast(self, params: Params) -> Params:
        """In the policy's dtype: the same arrays where they have it already."""
        cast: Params = jax.tree.map(lambda x: jnp.asarray(x, self.dtype), params)
        return cast

    def apply(
        self, state: PolicyState, total: Total, scale: np.float32, *, policy: bool, critic: bool
    ) -> tuple[PolicyState, Stats]:
        """One optimizer step with a batch's summed gradients, at `scale` times the learning rate; consumes all of both.

        The weights move in one program and the moments follow in another, so that each is changed in place: in a single
        one XLA copies the moments, from which both are made.
        """
        learns = {"policy": policy, "critic": critic}
        (params, head), total, finite = self._move(state.weights, state.moments, total, scale, **learns)
        opt_state, critic_opt_state, steps = self._follow(state.moments, (params, head), total[:2], finite, **learns)
        return PolicyState(
            params=params, opt_state=opt_state, critic=head, critic_opt_state=critic_opt_state, steps=steps
        ), total[2]

    def nothing(self, *slab: Any, old: Old, reach: Reach | None = None) -> Total:
        """A Total to begin with; the arguments are those of `add` for one slab."""
        if old not in self._zeros:  # the sum has one shape for all slabs, whatever their reach
            shapes = self.gradient.eval_shape(*slab, old=old, reach=reach)
            zeros = partial(jax.tree.map, lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
            self._zeros[old] = jax.jit(zeros, out_shardings=self._sum_shardings)
        return self._zeros[old]()

    def whole(self, total: Total) -> Total:
        """What `gradient` and `add` have summed, of all devices together; consumes it."""
        joined: Total = self._join(total) if self._apart else total
        return joined

    def shapes(self, rows: int, width: int) -> Shapes:
        """All that gradients of slabs of [rows, width] are made from, from the config alone."""
        complete = abstract_params(self.config)
        trained, dtype = trained_part(self.config, complete), self.dtype
        frozen = {} if trained is complete else split(complete)[1]
        frozen = _placed(frozen, parameter_shardings(frozen, self.mesh), dtype)
        by_rows, shape = slabs_sharding(self.mesh), (SLABS, rows, width)
        slabs = {n: jax.ShapeDtypeStruct(shape, t, sharding=by_rows) for n, t in slab_fields(self.update).items()}
        state: PolicyState = _placed(jax.eval_shape(self._new_state, trained), self.shardings)
        full = self.update.kl.place == "loss" and self.update.kl.estimator == "full"
        references = (frozen or _placed(trained, self.shardings.params, dtype)) if full else None
        return Shapes(state, frozen, slabs, references)

    def _sums(self, shapes: Shapes) -> Total:
        """Shapes of what slabs of these shapes are added to."""
        state = shapes.state
        given = state.params, shapes.frozen, state.critic, shapes.slab, shapes.references
        sums: Total = self.gradient.eval_shape(*given, old="behaviour", reach=None)
        return sums

    def total_shapes(self, shapes: Shapes) -> Total:
        """The sum of gradients and statistics that slabs of these shapes add to."""
        sums = self._sums(shapes)
        if self._apart:
            sums = jax.eval_shape(_joined, sums)
        policy, critic = (_placed(a, b) for a, b in zip(sums[:2], self._total_shardings[:2], strict=True))
        return policy, critic, _placed(sums[2], jax.tree.map(lambda _: self._whole, sums[2]))

    def lower(self, program: Program, rows: int, width: int) -> jax.stages.Lowered:
        """A program of an optimizer step on slabs of [rows, width], from shapes alone: no weights are needed.

        What it holds on a device is in `.compile().memory_analysis()`.

        Args:
          program: init makes the state, add adds the gradients of slabs to the sum, move and follow take the step.
        """
        if program == "init":
            trained = trained_part(self.config, abstract_params(self.config))
            return self.init.lower(_placed(trained, self.shardings.params))
        shapes = self.shapes(rows, width)
        state, frozen, slabs, references = shapes
        total = self.total_shapes(shapes)
        if program == "add":
            given = np.int32(SLABS), state.params, frozen, state.critic, slabs, references
            if self._apart:
                sums = self._sums(shapes)
                total = _placed(sums, jax.tree.map(lambda _: self._sum_shardings[0], sums))
            return self.add.lower(total, *given, old="behaviour", reach=None)
        learns = {"policy": True, "critic": state.critic is not None}
        if program == "move":
            return self._move.lower(state.weights, state.moments, total, np.float32(1), **learns)
        finite = jax.ShapeDtypeStruct((), np.bool_, sharding=self._whole)
        return self._follow.lower(state.moments, state.weights, total[:2], finite, **learns)

    def kept(self, rows: int, width: int) -> int:
        """Bytes that the forward pass of a slab leaves for the backward one, over all devices, from shapes alone."""
        shapes = self.shapes(rows, width)
        state, frozen, slab, references = shapes.state, shapes.frozen, shapes.slab, shapes.references

        def residuals(trained: Any, frozen: Params, slab: Rows, references: Params | None) -> list[Any]:
            loss = partial(self._loss, frozen=frozen, rows=slab, references=references, old="behaviour")
            return jax.tree.leaves(jax.vjp(lambda given: loss(*given)[0], trained)[1])

        left = jax.eval_shape(residuals, (state.params, state.critic), frozen, slab, references)
        return sum(x.size * x.dtype.itemsize for x in left)

    # ------------------------------------------------------------ inside

    def _copied(self, params: Params) -> Params:
        copied: Params = jax.tree.map(lambda x: jnp.array(x, self.dtype, copy=True), params)
        return copied

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

    def _moved(
        self, weights: Weights, moments: Moments, total: Total, scale: jax.Array, *, policy: bool, critic: bool
    ) -> tuple[Weights, Total, jax.Array]:
        """The next weights, the total with its gradients clipped, and whether they are finite: else nothing moves."""
        (params, head), (gradient, critic_gradient, stats) = weights, total
        norms = {"grad_norm": optax.tree.norm(gradient), "critic_grad_norm": optax.tree.norm(critic_gradient)}
        finite = jnp.isfinite(norms["grad_norm"]) & jnp.isfinite(norms["critic_grad_norm"])
        if policy:
            gradient = clipped(self.update, gradient)
            params = moved(self._tx, gradient, moments[0], params, scale, finite)
        if critic:
            critic_gradient = clipped(self.update, critic_gradient)
            head = moved(self._critic_tx, critic_gradient, moments[1], head, scale, finite)
        stats["sum"] |= norms | {"nonfinite": 1.0 - finite}
        return (params, head), (gradient, critic_gradient, stats), finite

    def _followed(
        self,
        moments: Moments,
        weights: Weights,
        gradients: Weights,
        finite: jax.Array,
        *,
        policy: bool,
        critic: bool,
    ) -> Moments:
        """The next moments and count of steps."""
        of_policy, of_critic, steps = moments
        if policy:
            of_policy = followed(self._tx, gradients[0], of_policy, weights[0], finite)
            steps = steps + finite
        if critic:
            of_critic = followed(self._critic_tx, gradients[1], of_critic, weights[1], finite)
        return of_policy, of_critic, steps

    def _slab(self, *slab: Any, old: Old, reach: Reach | None = None) -> Total:
        """What `_gradient` makes of one slab ([R T] arrays); of devices apart, each one's own, along a first axis."""
        gradient = partial(self._gradient, old=old, reach=reach)
        if not self._apart:
            return gradient(*slab)
        whole, split = PartitionSpec(), PartitionSpec("data")
        own: Callable[..., Total] = jax.shard_map(
            lambda *given: jax.tree.map(lambda x: x[None], gradient(*given)),
            mesh=self.mesh,
            in_specs=(whole, whole, whole, split, whole),
            out_specs=split,
            check_vma=False,
        )
        return own(*slab)

    def _gradient(
        self,
        params: Params,
        frozen: Params,
        critic: Params | None,
        rows: Rows,
        references: Params | None,
        *,
        old: Old,
        reach: Reach | None,
    ) -> Total:
        """Gradients and statistics of some rows."""
        loss = partial(self._loss, frozen=frozen, rows=rows, references=references, old=old, reach=reach)
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
        reach: Reach | None = None,
    ) -> tuple[jax.Array, Stats]:
        """Loss and statistics of one slab, as a function of what is trained."""
        if critic is not None and "trunk" in critic:
            critic = critic | {"trunk": self.cast(critic["trunk"])}
        trunk = join(frozen, self.cast(params))
        return self._own.loss(trunk, critic, rows, references, old=old, reach=reach)

    def _alone(self, *slab: Any, old: Old, reach: Reach | None = None) -> Total:
        """What `_slab` makes of these arguments."""
        total: Total = self._traced(*slab, old=old, reach=reach)
        return total

    def _add(
        self,
        total: Total,
        count: jax.Array,
        params: Params,
        frozen: Params,
        critic: Params | None,
        slabs: Rows,
        references: Params | None,
        *,
        old: Old,
        reach: Reach | None = None,
    ) -> Total:
        """`total` and what `_slab` makes of each of the first `count` slabs, [SLABS R T] arrays."""

        def one(i: jax.Array, total: Total) -> Total:
            slab = jax.tree.map(lambda x: x[i], slabs)
            return _merge(total, self._traced(params, frozen, critic, slab, references, old=old, reach=reach))

        added: Total = jax.lax.fori_loop(0, count, one, total)
        return added

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


def _placed(shapes: Any, shardings: Any, dtype: Any = None) -> Any:
    """Shapes with the place of each array, and another type where one is given."""
    return jax.tree.map(lambda x, p: jax.ShapeDtypeStruct(x.shape, dtype or x.dtype, sharding=p), shapes, shardings)


def _joined(total: Total) -> Total:
    """The sums of devices apart, which lie along the first axis, as one."""
    policy, critic, stats = total
    added = partial(jax.tree.map, lambda x: x.sum(0))
    together: Stats = {"sum": added(stats["sum"]), "max": jax.tree.map(lambda x: x.max(0), stats["max"])}
    return added(policy), added(critic), together


def _merge(a: Total, b: Total) -> Total:
    """Add gradients and sums, take the larger of maxima."""
    stats: Stats = {
        "sum": jax.tree.map(jnp.add, a[2]["sum"], b[2]["sum"]),
        "max": jax.tree.map(jnp.maximum, a[2]["max"], b[2]["max"]),
    }
    return jax.tree.map(jnp.add, a[0], b[0]), jax.tree.map(jnp.add, a[1], b[1]), stats
