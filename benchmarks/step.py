"""`step`: a whole on-policy step through the learner's own pieces, split by phase."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import numpy as np

import envs
from benchmarks.figures import spreads
from benchmarks.subject import Subject
from benchmarks.update import peak_bytes, settings
from selfplay.actor import Actor
from selfplay.archive import TaskArchive
from selfplay.cluster.inprocess import InProcess
from selfplay.config import Acquire, EnvChoice, Mesh, Policy, RoleConfig, Run
from selfplay.errors import UserError
from selfplay.models import Tokenizer
from selfplay.models.sharding import make_mesh
from selfplay.opponents import Opponents
from selfplay.packing import minibatches
from selfplay.play import Speaker
from selfplay.records import PolicyRef
from selfplay.refine import refine
from selfplay.sampler import LocalSampler
from selfplay.units import World, step_units, uniform_objective
from selfplay.update import Updater
from selfplay.watch import Watch


def run(
    subject: Subject,
    *,
    tasks: int,
    group: int,
    prompt_tokens: int,
    new_tokens: int,
    micro_rows: int,
    row_tokens: int,
    logit_chunk: int,
    devices: int,
    repeats: int,
) -> dict[str, Any]:
    """Seconds a step: sample, verify, update (refining and packing included), publish. Rows have their full lengths."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "questions.jsonl"
        write_questions(file, subject.tokenizer, tasks, prompt_tokens)
        env = EnvChoice(options={"path": str(file), "match": "number"})
        steps = Steps(
            subject.ending_at(),
            Run(
                envs={"jsonl": env},
                policies={"main": Policy(dtype=subject.dtype)},
                roles={"propose": RoleConfig(trainable=False), "solve": RoleConfig(max_new_tokens=new_tokens)},
                acquire=Acquire(units=1, tasks_per_unit=tasks, group_size=group, mix={"procedural": 1.0}),
                update=settings(micro_rows, row_tokens, logit_chunk),
                mesh=Mesh(data=devices),
            ),
        )
        first = steps.take(prompt_tokens)["s_per_step"]
        return {
            "first_call_s": first,
            **spreads([steps.take(prompt_tokens) for _ in range(repeats)]),
            "peak_bytes": peak_bytes(),
        }


class Steps:
    """Learner steps, one after the other."""

    def __init__(self, subject: Subject, run: Run) -> None:
        self.run, self.step = run, 0
        self.world = World({name: envs.make(name, **choice.options) for name, choice in run.envs.items()}, {})
        mesh = make_mesh(run.mesh.data)
        self.updater = Updater(subject.config, run.update, run.roles, mesh, dtype=subject.dtype)
        self.state = self.updater.init(subject.params)
        subject.params.clear()  # as a learner does with a base that is read no more
        sampler = LocalSampler(subject.config, subject.tokenizer, mesh)
        self.cluster = InProcess(Actor({"main": Speaker(sampler, subject.tokenizer, subject.config.max_positions)}))
        self.cluster.publish("main", 0, self.updater.publish(self.state))

    def take(self, prompt_tokens: int) -> dict[str, float]:
        """One step; seconds by phase."""
        self.step += 1
        watch, ref = Watch(), PolicyRef("main", self.step - 1)
        units = step_units(
            self.run, self.world, generation=1, step=self.step, seats={"propose": ref, "solve": ref},
            objective=uniform_objective(self.run, self.world.envs), archive=TaskArchive(1),
            opponents=Opponents(self.run.opponents),
        )  # fmt: skip
        [(_, groups, spent)] = self.cluster.run(units)
        self._check([t.turn_starts[0] for g in groups for t in g.attempts], prompt_tokens)
        self.cluster.retire("main", ())
        rows = sum(len(g.attempts) for g in groups)
        with watch("update"):
            refined = refine(groups, run=self.run, planned={"solve": rows}, baselines={}, scorer=self)
            batches = minibatches(
                refined.items, policy="main", planned=refined.planned, roles=self.run.roles, update=self.run.update,
                seed=self.step, multiple=self.updater.row_multiple,
            )  # fmt: skip
            self.state, _ = self.updater.step(self.state, batches)
            jax.block_until_ready(self.state.params)
        with watch("publish"):
            published = self.updater.publish(self.state)
            self.cluster.publish("main", self.step, published)
            jax.block_until_ready(published)
        return {
            "s_per_step": watch.total(),
            "sample_s": spent["sample_s"],
            "verify_s": spent["verify_s"],
            "update_s": watch["update"],
            "publish_s": watch["publish"],
        }

    def values(self, trajectories: Any) -> list[np.ndarray]:
        """There is no critic."""
        raise ValueError("a step without a critic asks for no values")

    def reference_logprobs(self, trajectories: Any) -> list[np.ndarray]:
        """There is no reference."""
        raise ValueError("a step without KL asks for no reference")

    def _check(self, prompts: list[int], expected: int) -> None:
        if set(prompts) != {expected}:
            raise ValueError(f"every prompt must have {expected} tokens, got {sorted(set(prompts))}")


PIECES = (" 1", "2", " 3", "4", " 5", "6", " 7", "8", " 9", "a", " b", "c", ".", " ")
ANSWERS = 9
"""Answers are the digits 1 to 9: what a random text ends on now and then."""


def write_questions(file: Path, tokenizer: Tokenizer, tasks: int, tokens: int) -> None:
    """Distinct questions of exactly so many tokens each, for the environment `jsonl`."""
    lines = []
    for i in range(tasks):
        text = _text(tokenizer, tokens, np.random.default_rng(i))
        lines.append(json.dumps({"prompt": text, "answer": 1 + i % ANSWERS, "split": "train"}))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _text(tokenizer: Tokenizer, tokens: int, rng: np.random.Generator) -> str:
    """A text that begins a context of exactly so many tokens, put together piece by piece."""
    text = ""
    while (length := len(tokenizer.prompt(text))) < tokens:
        longer = [text + str(piece) for piece in rng.permutation(PIECES)]
        fitting = [t for t in longer if length < len(tokenizer.prompt(t)) <= tokens]
        if not fitting:
            break
        text = fitting[0]
    if length != tokens:
        raise UserError(f"--prompt-tokens {tokens}: this tokenizer has no text of exactly so many tokens")
    return text
