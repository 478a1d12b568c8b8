"""Tiny models and runs that the tests of the loop share: small enough that a whole run takes a second or two."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import toy_env

from selfplay import recipe
from selfplay.config import EnvChoice, Run
from selfplay.models import ModelConfig, init_params, printable_ascii, save

RANDOM = ModelConfig(
    family="qwen3", vocab_size=128, hidden_size=32, layers=1, heads=2, kv_heads=1, head_dim=16, intermediate_size=32,
    qk_norm=True, max_positions=256, eos_ids=(2,), bos_id=1, pad_id=0,
)  # fmt: skip

SMALL = (
    "--schedule.generations 2 --schedule.steps-per-generation 2 --cluster.actors 0 --cluster.threads 2 "
    "--acquire.units 2 --acquire.tasks-per-unit 4 --propose.per-ask 4 --acquire.group-size 4 "
    "--evaluate.tasks 8 --evaluate.tasks-between 8 --update.warmup-steps 0 --update.learning-rate 1e-3 "
    "--roles.solve.max-new-tokens 8 --update.interference-every 2 --update.row-tokens 64"
)


def save_random(folder: Path, seed: int = 0) -> Path:
    """A model folder with random weights."""
    tokenizer = printable_ascii(vocab_size=RANDOM.vocab_size, model_max_length=RANDOM.max_positions)
    save(folder, RANDOM, init_params(RANDOM, jax.random.key(seed)), tokenizer)
    return folder


def small_run(name: str, model: Path, *flags: str, env: str = toy_env.NAME) -> Run:
    """A recipe cut down to a second or two on a model; more flags on top, each "--field value ..."."""
    run = recipe.resolve(name, [*SMALL.split(), "--policies.main.model", str(model), *" ".join(flags).split()])
    policies = {name: replace(policy, model=str(model)) for name, policy in run.policies.items()}
    stop = toy_env.STOPS if env == toy_env.NAME else ()
    roles = {role: replace(config, stop=stop) for role, config in run.roles.items()}
    return replace(run, policies=policies, roles=roles, envs={env: EnvChoice(difficulties=(1, 2))})
