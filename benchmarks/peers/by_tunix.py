"""Tunix's own sampler, with a cache of exactly the slots that prompt and new tokens need, and its GRPOLearner."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tunix.generate.sampler import CacheConfig, Sampler
from tunix.models.gemma3 import model as gemma3
from tunix.models.gemma3 import params_safetensors as gemma3_files
from tunix.models.qwen3 import model as qwen3
from tunix.models.qwen3 import params as qwen3_files
from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner
from tunix.rl.rl_cluster import ClusterConfig, RLCluster, RLTrainingConfig, Role
from tunix.rl.rollout.base_rollout import RolloutConfig

from benchmarks.figures import process_peak_bytes, random_ids, spreads

NEVER = -1
"""A token that is never drawn."""


def rollout(
    *, model: str, threads: int, repeats: int, batch: int, prompt_tokens: int, new_tokens: int
) -> dict[str, Any]:
    """Tokens a second of whole calls, each with new weights; no token ends a row."""
    config = json.loads((Path(model) / "config.json").read_text())
    net = open_model(model, config)
    prompts = Prompts(random_ids(config["vocab_size"], batch, prompt_tokens))
    cache = CacheConfig(
        cache_size=prompt_tokens + new_tokens,
        num_layers=config["num_hidden_layers"],
        num_kv_heads=config["num_key_value_heads"],
        head_dim=config["head_dim"],
    )
    sampler = Sampler(net, prompts, cache)
    weights = nnx.variables(net)

    def draw(step: int) -> float:
        changed = jax.tree.map(lambda x: x * jnp.asarray(1 + 1e-3 * step, x.dtype), weights)
        sampler.transformer_state = jax.block_until_ready(changed)
        began = time.perf_counter()
        drawn = sampler(
            prompts.names, max_generation_steps=new_tokens, max_prompt_length=prompt_tokens, temperature=1.0,
            top_p=1.0, top_k=None, seed=step,
        )  # fmt: skip
        spent = time.perf_counter() - began
        check_lengths(drawn.tokens, new_tokens)
        return spent

    first = draw(0)
    rows = [{"tokens_per_s": batch * new_tokens / draw(step)} for step in range(1, repeats + 1)]
    return {"first_call_s": first, "peak_bytes": process_peak_bytes(), **spreads(rows)}


def step(
    *,
    model: str,
    threads: int,
    repeats: int,
    tasks: int,
    group: int,
    prompt_tokens: int,
    new_tokens: int,
    micro_rows: int,
) -> dict[str, Any]:
    """Seconds from one generating's start to the next one's; `sample_s` is what generating takes of it."""
    micro_rows = min(micro_rows, tasks * group)
    if micro_rows % group or tasks % (micro_rows // group):
        raise SystemExit(f"--micro-rows {micro_rows}: whole groups of {group}, and a divisor of {tasks} of them")
    config = json.loads((Path(model) / "config.json").read_text())
    net = open_model(model, config)
    prompts = Prompts(random_ids(config["vocab_size"], tasks, prompt_tokens))
    mesh, credit = one_device(), np.random.default_rng(1)

    def reward(prompts: Any, completions: Any, **_: Any) -> list[float]:
        return [float(x) for x in credit.normal(size=len(completions))]

    settings = ClusterConfig(
        role_to_mesh=dict.fromkeys((Role.ACTOR, Role.ROLLOUT), mesh),
        training_config=RLTrainingConfig(
            actor_optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4, weight_decay=0.0)),
            eval_every_n_steps=repeats + 3,
            max_steps=repeats + 2,
            mini_batch_size=tasks,
            train_micro_batch_size=micro_rows // group,
            rollout_micro_batch_size=tasks,
            compute_logps_micro_batch_size=tasks,
        ),
        rollout_config=RolloutConfig(
            max_tokens_to_generate=new_tokens, max_prompt_length=prompt_tokens, temperature=1.0, top_p=1.0,
            top_k=None, kv_cache_size=prompt_tokens + new_tokens,
        ),
    )  # fmt: skip
    cluster = RLCluster(actor=net, reference=None, tokenizer=prompts, cluster_config=settings)
    clock = Clock(cluster, new_tokens)
    learner = GRPOLearner(cluster, GRPOConfig(num_generations=group, beta=0.0), reward)
    learner.train([{"prompts": np.array(prompts.names)}] * (repeats + 2))
    first, *later = clock.steps()
    if len(later) != repeats:
        raise ValueError(f"expected {repeats} steps after the first, got {len(later)}")
    return {"first_call_s": first["s_per_step"], "peak_bytes": process_peak_bytes(), **spreads(later)}


class Clock:
    """When a cluster began to generate, and how long it took."""

    def __init__(self, cluster: Any, new_tokens: int) -> None:
        self.began: list[float] = []
        self.sampled: list[float] = []
        generate = cluster.generate

        def timed(*given: Any, **named: Any) -> Any:
            self.began.append(time.perf_counter())
            made = generate(*given, **named)
            self.sampled.append(time.perf_counter() - self.began[-1])
            check_lengths(made.tokens, new_tokens)
            return made

        cluster.generate = timed

    def steps(self) -> list[dict[str, float]]:
        """All but the last, whose end nothing marks."""
        ends = zip(self.began, self.began[1:], self.sampled, strict=False)
        return [{"s_per_step": end - began, "sample_s": sampled} for began, end, sampled in ends]


def check_lengths(rows: list[np.ndarray], new_tokens: int) -> None:
    """Every row must have been drawn to its full length."""
    if {len(row) for row in rows} != {new_tokens}:
        raise ValueError(f"every row must draw {new_tokens} tokens, got {[len(row) for row in rows]}")


def one_device() -> Any:
    """A mesh of the one device, with the axes of Tunix's models."""
    return jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)


def open_model(folder: str, config: dict[str, Any]) -> Any:
    """The model of a Hugging Face folder in float32, families qwen3 and gemma3."""
    sizes = {
        "num_layers": config["num_hidden_layers"],
        "embed_dim": config["hidden_size"],
        "hidden_dim": config["intermediate_size"],
        "num_heads": config["num_attention_heads"],
        "head_dim": config["head_dim"],
        "num_kv_heads": config["num_key_value_heads"],
        "param_dtype": jnp.float32,
    }
    rope = config["rope_parameters"]
    mesh = one_device()
    if config["model_type"] == "qwen3":
        ours = qwen3.ModelConfig(
            **sizes,
            vocab_size=config["vocab_size"],
            rope_theta=int(rope["rope_theta"]),
            norm_eps=config["rms_norm_eps"],
            use_tied_embedding=config["tie_word_embeddings"],
        )
        return qwen3_files.create_model_from_safe_tensors(folder, ours, mesh, dtype=jnp.float32)
    if config["model_type"] == "gemma3_text":
        theirs = gemma3.ModelConfig(
            **sizes,
            num_embed=config["vocab_size"],
            sliding_window_size=config["sliding_window"],
            local_base_frequency=int(rope["sliding_attention"]["rope_theta"]),
            global_base_frequency=int(rope["full_attention"]["rope_theta"]),
        )
        return gemma3_files.create_model_from_safe_tensors(folder, theirs, mesh, dtype=jnp.float32)
    raise SystemExit(f"{folder}: a {config['model_type']} model; this script opens qwen3 and gemma3_text")


class Prompts:
    """A tokenizer whose texts are the names of given ids: what is drawn need not be read. No token ends a row."""

    def __init__(self, ids: list[np.ndarray]) -> None:
        self.names = [str(i) for i in range(len(ids))]
        self._ids = dict(zip(self.names, [row.tolist() for row in ids], strict=True))

    def encode(self, text: str) -> list[int]:
        return list(self._ids[text])

    def decode(self, ids: list[int]) -> str:
        return ""

    def bos_id(self) -> int:
        return 0  # falsy: none is put in front

    def eos_id(self) -> int:
        return NEVER

    def pad_id(self) -> int:
        return NEVER


COMMANDS = {"rollout": rollout, "step": step}
