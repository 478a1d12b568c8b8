"""Gradient steps on packed batches, slab by slab: what `programs.py` compiles, called in order.

Three policies: mu sampled the tokens, old is the learner at the start of the update, theta is being changed. When
the data is not stale, old := mu, the sampler's own log-probabilities (the two differ by rounding only, which
`mismatch/*` shows) and the importance weight is 1. When it is, old is scored by the learner and every token is
weighted by stop_gradient(min(old / mu, c)).

Letters: B rows of T tokens, in slabs of R rows; n tokens of one trajectory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from selfplay.config import RoleConfig, Update
from selfplay.layout import columns, lay_out, may_have_reach, plan_rows, reach_of, row_bucket, row_width
from selfplay.losses import regularised
from selfplay.models import ModelConfig, Params
from selfplay.models.attention import Reach
from selfplay.models.lora import init_adapter, join
from selfplay.models.sharding import batch_parts, batch_sharding, check_mesh, place, slabs_sharding
from selfplay.objective import Old, Rows, Stats, explained_variance, interference_metrics, update_metrics
from selfplay.optimizer import decay, entropy_share, learning_rate
from selfplay.programs import SLABS, WEIGHTS, PolicyState, Programs, Total, placed, slab_fields
from selfplay.records import ROLES, Batch, Trajectory

Slab: TypeAlias = dict[str, np.ndarray]
"""Some rows of a Batch: arrays [R, T]."""

SCORE_ROWS = 64
"""Most rows that are scored at a time."""


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
        as_elsewhere: bool = False,
    ) -> None:
        """`as_elsewhere`: compute on a CPU as on a GPU or a TPU, whose memory is to be foretold."""
        self.config, self.update, self.mesh, self.dtype = config, update, mesh, jnp.dtype(dtype)
        check_mesh(config, mesh)
        self.programs = Programs(config, update, roles, mesh, dtype, as_elsewhere=as_elsewhere)
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
            params = place(init_adapter(self.config, key), self.programs.shardings.params)
        state: PolicyState = self.programs.init(params)
        return state

    def prepare(self) -> None:
        """Compile what a step runs on slabs of `update.row_tokens`, from shapes alone: the first step finds it done.

        Nothing is compiled where the first batch decides what is: by its size, its reach, or what it weighs entropy by.
        A batch of one slab alone has another program than `add` (`_total`), which its first step compiles.
        """
        update = self.update
        if update.micro_rows and update.entropy_floor == 1 and not may_have_reach(update.row_tokens):
            for program in ("add", "move", "follow"):
                self.programs.lower(program, self.row_multiple, self.update.row_tokens).compile()

    def publish(self, state: PolicyState) -> Params:
        """A copy of what is trained, in the policy's dtype, that no later step touches: what may be leased."""
        copy: Params = self.programs.copy(state.params)
        return copy

    def weights(self, published: Params) -> Params:
        """What a forward pass takes: something published, or a state's `params`, with all that is not trained."""
        return join(self._frozen, self.programs.cast(published))

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
          done: share of the run that is behind, for update.decay and update.entropy_floor.
          critic_only: the policy stays as it is (critic warm-up).
          stale: the data was sampled by other weights than `state.params`.
        """
        old: Old = "behaviour" if not stale else "self" if len(batches) == 1 else "given"
        scale = np.float32(decay(self.update, done))
        reach = _reach(batches)
        before = [self.score(self.weights(state.params), b, reach) if old == "given" else None for b in batches]
        stats: list[Stats] = []
        for batch, old_logprobs in zip(batches, before, strict=True):
            policy, critic = self._learns(batch)
            policy = policy and not critic_only
            if policy or critic:
                slabs = self._slabs(batch, old_logprobs, done=done)
                total = self._total(state, slabs, references, old=old, reach=reach)
                state, taken = self.programs.apply(state, total, scale, policy=policy, critic=critic)
                stats.append(taken)
        host: list[Stats] = jax.device_get(stats)
        nonfinite = float(sum(s["sum"]["nonfinite"] for s in host))
        rate = learning_rate(self.update, self.update.learning_rate)(max(int(state.steps) - 1, 0))
        metrics = {
            "update/skipped": len(batches) - len(host) + nonfinite,
            "update/nonfinite": nonfinite,
            "update/distinct_frac": _distinct(batches),
            "optim/lr": float(rate * scale),
        }
        return state, metrics | update_metrics(host, self.update) | explained_variance(batches)

    def logprobs(self, weights: Params, trajectories: Sequence[Trajectory]) -> list[np.ndarray]:
        """[n] float32 nats of every policy token under `weights`, at its role's temperature; 0 elsewhere."""
        return self._by_rows(partial(self.programs.logprobs, weights), trajectories)

    def values(self, state: PolicyState, trajectories: Sequence[Trajectory]) -> list[np.ndarray]:
        """[n] float32: the critic's estimate before each policy token; 0 elsewhere."""
        if state.critic is None:
            raise ValueError("update.critic.kind is none: there are no values")
        weights = self.weights(state.params)
        return self._by_rows(partial(self.programs.values, weights, state.critic), trajectories)

    def score(self, weights: Params, batch: Batch, reach: Reach | None) -> np.ndarray:
        """[B, T] log-probabilities of a whole Batch, as `logprobs`."""
        rows = self._put(placed(batch))
        return np.where(batch.reg_mask, np.asarray(self.programs.logprobs(weights, rows, reach=reach)), np.float32(0))

    def gradients(
        self, state: PolicyState, batch: Batch, references: Params | None = None
    ) -> tuple[Params, Params | None]:
        """Gradients of one Batch's loss at the current weights, before clipping: the policy's and the critic's."""
        slabs = self._slabs(batch, None)
        policy, critic, _ = self._total(state, slabs, references, old="behaviour", reach=_reach([batch]))
        return policy, critic

    def interference(
        self, state: PolicyState, batches: Sequence[Batch], references: Params | None = None
    ) -> dict[str, float]:
        """Do the roles pull the shared weights apart? Norms of each role's policy gradient, and their cosine.

        Over the sum of the batches, at the current weights, without KL, entropy or critic. A role without weight
        in them is left out.
        """
        total: dict[str, Any] = {}
        reach = _reach(batches)
        for index, role in enumerate(ROLES):
            slabs: list[Slab] = []
            for batch in batches:
                weights = np.where(batch.roles == index, batch.weights, np.float32(0))
                slabs += self._slabs(batch, None, weights=weights) if weights.any() else []
            if slabs:
                total[role] = self._total(state, slabs, references, old="behaviour", reach=reach)[0]
        return interference_metrics(total)

    def _total(
        self,
        state: PolicyState,
        slabs: Sequence[Slab],
        references: Params | None,
        *,
        old: Old,
        reach: Reach | None,
    ) -> Total:
        """Gradients and statistics summed over the slabs of a batch, at the current weights."""
        weights = state.params, self._frozen, state.critic
        if len(slabs) == 1:  # its gradient is the sum, and there is none to hold beside it
            alone: Total = self.programs.gradient(*weights, self._put(slabs[0]), references, old=old, reach=reach)
            return self.programs.whole(alone)
        total = self.programs.nothing(*weights, slabs[0], references, old=old, reach=reach)
        for some in _calls(slabs):
            rows = self._together(some)
            total = self.programs.add(total, np.int32(len(some)), *weights, rows, references, old=old, reach=reach)
        return self.programs.whole(total)

    def _learns(self, batch: Batch) -> tuple[bool, bool]:
        """Has this batch anything for the policy's weights, and for the critic's own?"""
        critic = self.update.critic.kind != "none" and bool(batch.value_weights.any())
        pulled = regularised(self.update) and bool(batch.reg_weights.any())
        return bool(batch.weights.any()) or pulled or (critic and self.update.critic.kind == "shared"), critic

    def _put(self, rows: Mapping[str, np.ndarray]) -> Rows:
        placed: Rows = place(dict(rows), dict.fromkeys(rows, batch_sharding(self.mesh)))
        return placed

    def _together(self, slabs: Sequence[Slab]) -> Rows:
        """Slabs as [SLABS R T] arrays on the mesh, with nothing in those that are missing."""
        nothing = [{name: np.zeros_like(x) for name, x in slabs[0].items()}] * (SLABS - len(slabs))
        stacked = {name: np.stack([slab[name] for slab in (*slabs, *nothing)]) for name in slabs[0]}
        placed: Rows = place(stacked, dict.fromkeys(stacked, slabs_sharding(self.mesh)))
        return placed

    def _slabs(
        self, batch: Batch, old_logprobs: np.ndarray | None, *, weights: np.ndarray | None = None, done: float = 0.0
    ) -> list[Slab]:
        """A Batch as slabs of `row_multiple` rows (all rows without micro_rows); given other `weights`, without
        regularisers and critic."""
        rows = len(batch.ids)
        if rows % self.row_multiple:
            raise ValueError(f"a batch needs a multiple of {self.row_multiple} rows, got {rows}")
        arrays = placed(batch) | {name: getattr(batch, name) for name in slab_fields(self.update)}
        if self.update.entropy_floor < 1 and weights is None:
            arrays["entropy_weights"] = batch.reg_weights * np.float32(entropy_share(self.update, done))
        if weights is not None:
            arrays |= {name: np.zeros_like(weights) for name in WEIGHTS} | {"weights": weights}
        if old_logprobs is not None:
            arrays["old_logprobs"] = old_logprobs
        size = self.row_multiple if self.update.micro_rows else rows
        used = [i for i in range(0, rows, size) if batch.segment_ids[i : i + size].any()] or [0]
        return [{name: array[i : i + size] for name, array in arrays.items()} for i in used]

    def _by_rows(self, program: Callable[..., jax.Array], trajectories: Sequence[Trajectory]) -> list[np.ndarray]:
        """Pack, run `program` on at most SCORE_ROWS rows at a time, and hand every trajectory its own numbers."""
        if not trajectories:
            return []
        width = row_width(max(map(columns, trajectories)), self.update.row_tokens)
        plan = plan_rows(trajectories, width, share=self.update.shared_prefix)
        used = len(plan.rows)
        size = self.row_multiple if self.update.micro_rows else row_bucket(min(used, SCORE_ROWS), self.row_multiple)
        rows = lay_out(trajectories, plan, -(-used // size) * size)
        begins = range(0, used, size)
        slabs = (self._put({name: array[i : i + size] for name, array in placed(rows).items()}) for i in begins)
        reach = reach_of(rows.segment_ids, rows.prefix_ids)
        out = np.concatenate([np.asarray(program(slab, reach=reach)) for slab in slabs])
        return [np.where(t.mask, s.read(out), np.float32(0)) for t, s in zip(trajectories, rows.spots, strict=True)]


def _calls(slabs: Sequence[Slab]) -> Iterator[list[Slab]]:
    """The slabs that each call takes: up to SLABS, of the same arrays."""
    for _, alike in groupby(slabs, key=lambda slab: {name: x.shape for name, x in slab.items()}):
        rest = list(alike)
        yield from (rest[i : i + SLABS] for i in range(0, len(rest), SLABS))


def _distinct(batches: Sequence[Batch]) -> float:
    """Share of the loss's tokens that are laid out, not stood for by an equal trajectory's; 1 where there are none."""
    tokens = sum(int((b.mask * b.counts).sum()) for b in batches)
    return sum(int(b.mask.sum()) for b in batches) / tokens if tokens else 1.0


def _reach(batches: Sequence[Batch]) -> Reach | None:
    """How far the tokens of these batches see: of all together, so that they share one compiled program."""
    return reach_of(*(np.concatenate([getattr(b, name) for b in batches]) for name in ("segment_ids", "prefix_ids")))
