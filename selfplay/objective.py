"""What one optimizer step minimises, as a function of weights and packed rows, and what is logged of it.

Pure JAX; `update.py` compiles, differentiates and places it. Letters: R rows of T columns, each of which reads a token
and predicts the next one, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from selfplay import losses
from selfplay.config import RoleConfig, Update
from selfplay.models import ModelConfig, Params, forward
from selfplay.models.attention import Reach
from selfplay.models.decoder import embed
from selfplay.models.sharding import batch_sharding
from selfplay.readout import Terms, read_out
from selfplay.records import ROLES, Batch
from selfplay.summaries import Positions

Old: TypeAlias = Literal["behaviour", "self", "given"]
"""Where old's log-probabilities come from: the sampler, theta itself (one step a batch), or the batch."""

Rows: TypeAlias = dict[str, jax.Array]
"""Fields of a records.Batch by name, [R T] each, and where they are given `old_logprobs`, `entropy_weights` and `kept`,
[R T K]."""

Stats: TypeAlias = dict[str, dict[str, jax.Array]]
"""{"sum": ..., "max": ...}: what micro-batches add up, and what they take the maximum of."""


class Objective:
    """Loss, scores and values of one policy's weights on packed rows."""

    def __init__(
        self, config: ModelConfig, update: Update, roles: Mapping[str, RoleConfig], mesh: Mesh, *, by_blocks: bool
    ) -> None:
        """`by_blocks`: a large vocabulary goes by blocks, as is good on a CPU (`summaries.py`)."""
        self.config, self.update, self.mesh, self.by_blocks = config, update, mesh, by_blocks
        self._temperatures = tuple(roles[role].temperature if role in roles else 1.0 for role in ROLES)
        self._kl_coefs = tuple(update.kl.coef.get(role, 0.0) for role in ROLES)
        self._kl_measured = tuple(role in update.kl.roles for role in ROLES)

    def loss(
        self,
        params: Params,
        critic: Params | None,
        rows: Rows,
        references: Params | None,
        *,
        old: Old,
        reach: Reach | None = None,
    ) -> tuple[jax.Array, Stats]:
        """sum(weights * term) over all terms of the loss, and its statistics.

        Args:
          references: weights of the reference policy, for kl.estimator = full.
          reach: how far the tokens of these rows see (`layout.reach_of`), as in all that follow.
        """
        update = self.update
        embedded, params = embed(params, rows["ids"])
        hidden = self._hidden(params, rows, reach, embedded)  # [R T D]
        # Off the policy's tokens every log-probability is 0: ratios there are 1 and nothing overflows.
        chosen = rows["reg_mask"]
        terms = self._read_out(params, hidden, rows, references, reach)
        logprobs, entropy = terms.logprobs, terms.entropy
        theta = jax.lax.stop_gradient(logprobs)
        mu = jnp.where(chosen, rows["behaviour_logprobs"], 0.0)
        before = {"behaviour": mu, "self": theta, "given": rows.get("old_logprobs", mu)}[old]
        clip = {"clip_eps": update.clip_eps, "clip_eps_high": update.clip_eps_high}
        weights = rows["weights"]
        if old != "behaviour":
            weights = weights * losses.importance(before, mu, cap=update.importance_cap)
        pairs = {"pair_ids": rows["pair_ids"], "beta": update.beta} if update.loss in losses.PAIRWISE else {}
        policy_loss = jnp.sum(
            weights * losses.LOSSES[update.loss](logprobs, before, rows["advantages"], **(pairs or clip))
        )
        loss = policy_loss - update.entropy_coef * jnp.sum(rows.get("entropy_weights", rows["reg_weights"]) * entropy)
        stats = _stats(rows, theta, before, mu, clip=clip, cap=update.importance_cap, entropy=entropy)
        stats["sum"]["policy_loss"] = policy_loss
        if update.kl.place != "none":
            measured = chosen & (self._by_role(self._kl_measured, rows["roles"]) > 0)
            kl = jnp.where(measured, self._kl(terms, rows), 0.0)
            if update.kl.place == "loss":
                loss += jnp.sum(rows["reg_weights"] * self._by_role(self._kl_coefs, rows["roles"]) * kl)
            counts = measured * rows["counts"]
            stats["sum"] |= {"ref_kl": jnp.sum(counts * kl), "ref_kl_tokens": jnp.sum(counts, dtype=jnp.float32)}
        if critic is not None:
            values = self._head(critic, hidden, rows, reach)
            value_loss = jnp.sum(rows["value_weights"] * losses.squared_error(values, rows["returns"]))
            loss += value_loss * (update.critic.vf_coef if update.critic.kind == "shared" else 1.0)
            stats["sum"]["value_loss"] = value_loss
        return loss, stats

    def logprobs(self, params: Params, rows: Rows, reach: Reach | None = None) -> Float[Array, "R T"]:
        """log pi of every target that the policy chose, at its role's temperature, nats; 0 elsewhere."""
        return self._read_out(params, self._hidden(params, rows, reach), rows, None, reach).logprobs

    def values(self, params: Params, critic: Params, rows: Rows, reach: Reach | None = None) -> Float[Array, "R T"]:
        """The critic's value before every target."""
        hidden = None if "trunk" in critic else self._hidden(params, rows, reach)
        return self._head(critic, hidden, rows, reach)

    def _hidden(
        self, params: Params, rows: Rows, reach: Reach | None, embedded: Float[Array, "R T D"] | None = None
    ) -> Float[Array, "R T D"]:
        places = (rows[name] for name in ("ids", "positions", "segment_ids", "prefix_ids"))
        return forward(self.config, params, *places, wrap=self._wrap, reach=reach, embedded=embedded)

    def _wrap(self, block: Callable[..., Any]) -> Callable[..., Any]:
        """A decoder block whose activations are split by rows, and computed again in the backward pass if so wanted."""

        def placed(x: jax.Array, *rest: Any) -> tuple[jax.Array, Any]:
            out, cache = block(self._by_rows(x), *rest)
            return self._by_rows(out), cache

        return jax.checkpoint(placed) if self.update.remat == "block" else placed

    def _by_rows(self, x: Float[Array, "R T D"]) -> Float[Array, "R T D"]:
        """Rows over the devices, width whole: parameters travel to the activations, never the reverse."""
        return x if self.mesh.size == 1 else jax.lax.with_sharding_constraint(x, batch_sharding(self.mesh))

    def _read_out(
        self,
        params: Params,
        hidden: jax.Array,
        rows: Rows,
        references: Params | None,
        reach: Reach | None,
    ) -> Terms:
        """What the vocabulary says of the chosen targets [R T]; with KL over all of it where the loss takes that."""
        kl = self.update.kl
        if kl.place != "loss" or kl.estimator != "full":
            references = None
        roles = rows["roles"]
        positions = Positions(
            hidden=hidden,
            ids=rows["targets"],
            chosen=rows["reg_mask"],
            temperature=None if set(self._temperatures) == {1.0} else self._by_role(self._temperatures, roles),
            reference=None if references is None else self._hidden(references, rows, reach),
            kept=rows.get("kept"),
        )
        return read_out(
            self.config,
            (params, references),
            positions,
            chunk=self.update.logit_chunk,
            mesh=self.mesh,
            by_blocks=self.by_blocks,
            entropy_learns=self.update.entropy_coef > 0,
        )

    def _head(self, critic: Params, hidden: jax.Array | None, rows: Rows, reach: Reach | None) -> Float[Array, "R T"]:
        """The scalar head on the policy's hidden states, or on those of the critic's own trunk."""
        states = self._hidden(critic["trunk"], rows, reach) if "trunk" in critic else hidden
        return jnp.asarray(states @ critic["head"]["kernel"] + critic["head"]["bias"])

    def _kl(self, terms: Terms, rows: Rows) -> Float[Array, "R T"]:
        """KL to the reference a token; where it is in the reward it is only logged, as k3."""
        kl = self.update.kl
        if kl.place == "reward" or kl.estimator != "full":
            name = "k3" if kl.place == "reward" else kl.estimator
            return losses.KL[name](terms.logprobs, jnp.where(rows["reg_mask"], rows["reference_logprobs"], 0.0))
        if terms.kl is None:
            raise ValueError("kl.estimator = full needs the reference's weights")
        return terms.kl

    def _by_role(self, values: Sequence[float], roles: Int[Array, "R T"]) -> Float[Array, "R T"]:
        return jnp.asarray(values, jnp.float32)[jnp.maximum(roles, 0)]


def _stats(
    rows: Rows,
    theta: jax.Array,
    old: jax.Array,
    mu: jax.Array,
    *,
    clip: Mapping[str, float],
    cap: float,
    entropy: jax.Array,
) -> Stats:
    """Sums and maxima over tokens of some rows, each as often as it counts; `update_metrics` makes curves of them."""
    mask, reg = rows["mask"] * rows["counts"], rows["reg_mask"] * rows["counts"]
    low, high = losses.clipped(theta, old, rows["advantages"], **clip)
    ratio = jnp.exp(theta - mu)
    capped = jnp.minimum(ratio, cap)
    difference = jnp.abs(theta - mu)
    sums = {
        "tokens": mask.sum(),
        "reg_tokens": reg.sum(),
        "approx_kl": jnp.sum(mask * losses.k3(old, theta)),
        "clip_low": jnp.sum(mask * low),
        "clip_high": jnp.sum(mask * high),
        "logp_absdiff": jnp.sum(reg * difference),
        "importance": jnp.sum(mask * capped),
        "importance_squared": jnp.sum(mask * capped**2),
        "capped": jnp.sum(mask * (ratio > cap)),
        "entropy": jnp.sum(reg * entropy),
    }
    for index, role in enumerate(ROLES):
        sums[f"reg_tokens/{role}"] = jnp.sum(reg * (rows["roles"] == index))
        sums[f"entropy/{role}"] = jnp.sum(reg * (rows["roles"] == index) * entropy)
    return {
        "sum": {name: jnp.asarray(value, jnp.float32) for name, value in sums.items()},
        "max": {"logp_absdiff": jnp.max(jnp.where(rows["reg_mask"], difference, 0.0))},
    }


def update_metrics(steps: Sequence[Stats], update: Update) -> dict[str, float]:
    """Curves of one update: over all its optimizer steps, but `mismatch/*` over the first, where theta is still old."""
    if not steps:
        return {}
    total = {name: float(sum(s["sum"][name] for s in steps)) for name in steps[0]["sum"]}
    first = {name: float(value) for name, value in steps[0]["sum"].items()}
    tokens, reg_tokens = max(total["tokens"], 1.0), max(total["reg_tokens"], 1.0)
    metrics = {
        "policy/loss": total["policy_loss"] / len(steps),
        "policy/entropy": total["entropy"] / reg_tokens,
        "policy/approx_kl": total["approx_kl"] / tokens,
        "policy/clip_frac": (total["clip_low"] + total["clip_high"]) / tokens,
        "policy/clip_frac_low": total["clip_low"] / tokens,
        "policy/clip_frac_high": total["clip_high"] / tokens,
        "policy/grad_norm": total["grad_norm"] / len(steps),
        "mismatch/logp_absdiff_mean": first["logp_absdiff"] / max(first["reg_tokens"], 1.0),
        "mismatch/logp_absdiff_max": float(steps[0]["max"]["logp_absdiff"]),
    }
    if first["tokens"]:
        metrics["mismatch/ess"] = first["importance"] ** 2 / (first["tokens"] * first["importance_squared"])
        metrics["mismatch/cap_frac"] = first["capped"] / first["tokens"]
    for role in ROLES:
        if total[f"reg_tokens/{role}"]:
            metrics[f"policy/entropy/{role}"] = total[f"entropy/{role}"] / total[f"reg_tokens/{role}"]
    if update.kl.place != "none":
        metrics["policy/ref_kl"] = total["ref_kl"] / max(total["ref_kl_tokens"], 1.0)
    if update.critic.kind != "none":
        metrics["critic/loss"] = total["value_loss"] / len(steps)
        metrics["critic/grad_norm"] = total["critic_grad_norm"] / len(steps)
    return metrics


def explained_variance(batches: Sequence[Batch]) -> dict[str, float]:
    """1 - Var(return - value) / Var(return) of the values fixed at the batch's start, by role; 1 = foretold exactly."""
    metrics = {}
    for index, role in enumerate(ROLES):
        chosen = [(b.value_weights > 0) & (b.roles == index) for b in batches]
        counts = np.concatenate([b.counts[c] for b, c in zip(batches, chosen, strict=True)])
        returns = np.concatenate([b.returns[c] for b, c in zip(batches, chosen, strict=True)]).repeat(counts)
        values = np.concatenate([b.old_values[c] for b, c in zip(batches, chosen, strict=True)]).repeat(counts)
        if returns.size and returns.var() > 0:
            metrics[f"critic/explained_variance/{role}"] = float(1 - (returns - values).var() / returns.var())
    return metrics


def interference_metrics(gradients: Mapping[str, Params]) -> dict[str, float]:
    """Norms of the roles' gradients, and the cosine between the two where both have one."""
    norms = {role: float(_norm(gradient)) for role, gradient in gradients.items()}
    metrics = {f"grad_norm/{role}": norm for role, norm in norms.items()}
    if {"propose", "solve"} <= norms.keys() and min(norms.values()) > 0:
        dot = float(_vdot(gradients["propose"], gradients["solve"]))
        metrics["grad_cosine/propose_solve"] = dot / (norms["propose"] * norms["solve"])
    return metrics


_norm = jax.jit(optax.tree.norm)
_vdot = jax.jit(optax.tree.vdot)
