"""The actor: copies of the policies that run units, in the learner's process or in one of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

import envs
from envs.base import Env
from selfplay.acquire import acquire
from selfplay.cluster.base import Params, Timings
from selfplay.compilations import Compilations
from selfplay.config import Policy
from selfplay.models.config import read_config
from selfplay.models.hf import locate
from selfplay.models.lora import with_adapter
from selfplay.models.tokenizer import load_tokenizer
from selfplay.play import Speaker
from selfplay.records import Group, PolicyRef, Unit
from selfplay.sampler import LocalSampler
from selfplay.tree import build


class Actor:
    """Holds a sampler a policy and the environments met so far, and runs units."""

    def __init__(self, speakers: Mapping[str, Speaker]) -> None:
        self._speakers = dict(speakers)
        self._envs: dict[str, Env] = {}

    def load(self, ref: PolicyRef, params: Params) -> None:
        self._speakers[ref.policy].sampler.load(ref, dict(params))

    def drop(self, ref: PolicyRef) -> None:
        self._speakers[ref.policy].sampler.drop(ref)

    def run(self, unit: Unit) -> tuple[list[Group], Timings]:
        compilations = Compilations()
        groups, spent = acquire(unit, self._env(unit), self._speakers)
        return groups, {
            "sample_s": spent.sample_s,
            "verify_s": spent.verify_s,
            "compilations": compilations.count(),
        }

    def _env(self, unit: Unit) -> Env:
        name = json.dumps([unit.env, unit.options], sort_keys=True)
        if name not in self._envs:
            self._envs[name] = envs.make(unit.env, **unit.options)
        return self._envs[name]


def make_worker(spec: Mapping[str, Any], mesh: Mesh | None = None) -> Actor:
    """An actor from {"policies": {name: a config.Policy as a table}}; the weights come later, by version.

    Args:
      mesh: where an actor within the learner samples; None = on this process's first device.
    """
    return Actor(make_speakers(spec, mesh))


def make_speakers(spec: Mapping[str, Any], mesh: Mesh | None = None) -> dict[str, Speaker]:
    """The speaker of every policy; see `make_worker`."""
    speakers = {}
    for name, table in spec["policies"].items():
        policy = build(Policy, table)
        folder = locate(policy.model)
        tokenizer, config = load_tokenizer(folder), with_adapter(read_config(folder), policy.lora)
        speakers[name] = Speaker(LocalSampler(config, tokenizer, mesh), tokenizer, config.max_positions)
    return speakers
