"""Tiny models and runs that the tests of the loop share: small enough that a whole run takes a second or two."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax

from selfplay import recipe
from selfplay.config import EnvChoice, Run
from selfplay.models import ModelConfig, init_params, printable_ascii, save
from selfplay.pretrain import Pretrain, Source, pretrain

RANDOM = ModelConfig(
    family="qwen3", vocab_size=128, hidden_size=32, layers=1, heads=2, kv_heads=1, head_dim=16, intermediate_size=32,
    qk_norm=True, max_positions=256, eos_ids=(2,), bos_id=1, pad_id=0,
)  # fmt: skip

SKILLED = Pretrain(
    layers=2, width=48, heads=4, kv_heads=2, inner=96, max_positions=256, steps=150, rows=8, row_tokens=64,
    learning_rate=8e-3, warmup_steps=20,
    sources={"chain": Source(options={"digits": [2, 2]}, difficulties={"1": 0.7, "2": 0.3}, proposals=0.3)},
)  # fmt: skip
"""Proposes valid tasks, and solves some, after seconds."""

SMALL = (
    "--schedule.generations 2 --schedule.steps-per-generation 2 --cluster.actors 0 --cluster.threads 2 "
    "--roles.propose.max-new-tokens 8 --roles.solve.max-new-tokens 16 "
    "--acquire.units 2 --acquire.tasks-per-unit 4 --propose.per-ask 4 --acquire.group-size 4 "
    "--evaluate.tasks 8 --evaluate.tasks-between 8 --update.warmup-steps 0 --update.learning-rate 1e-3 "
    "--update.interference-every 2 --update.row-tokens 64"
)


def save_random(folder: Path, seed: int = 0) -> Path:
    """A model folder with random weights: it writes endless garbage and never proposes a valid task."""
    save(folder, RANDOM, init_params(RANDOM, jax.random.key(seed)), printable_ascii(vocab_size=128, model_max_length=256))
    return folder


def save_skilled(folder: Path) -> Path:
    """A model folder after seconds of pretraining."""
    config, params, tokenizer, _ = pretrain(SKILLED, log=lambda line: None)
    save(folder, config, params, tokenizer)
    return folder


def small_run(name: str, model: Path, *flags: str) -> Run:
    """A recipe cut down to a second or two on a model; more flags on top, each "--field value ..."."""
    run = recipe.resolve(name, [*SMALL.split(), "--policies.main.model", str(model), *" ".join(flags).split()])
    return replace(run, envs={"chain": EnvChoice(difficulties=(1, 2), options={"digits": [2, 2]})})
