"""Runs that train an adapter, or compute in bfloat16: through actors, checkpoint, resume and export."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import small_run

from selfplay import models, recipe
from selfplay.cluster.inprocess import InProcess
from selfplay.config import Run
from selfplay.errors import UserError
from selfplay.export import export
from selfplay.learner import Learner, train
from selfplay.metrics import read_metrics

KL = "--update.kl.place reward --update.kl.estimator k1 --update.kl.coef.propose 0.1"
LORA = f"--update.decay none --policies.main.lora.rank 2 --policies.main.dtype bfloat16 {KL}"


@pytest.fixture(scope="module")
def run(random_model: Path) -> Run:
    return small_run("quickstart", random_model, LORA)


@pytest.fixture(scope="module")
def straight(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapted") / "run"
    train(run, folder)
    return folder


def trained(run: Run, folder: Path) -> list[np.ndarray]:
    opened = Learner(run, folder)
    assert opened.restore()
    return [np.asarray(x) for x in jax.tree.leaves(opened.joint.policies["main"].params)]


def test_an_adapter_is_all_that_is_trained_and_saved(run: Run, straight: Path) -> None:
    arrays = trained(run, straight)
    assert len(arrays) == 14 and all(x.dtype == np.float32 and np.abs(x).max() > 0 for x in arrays)
    steps = read_metrics(straight, "step")
    assert all(s["policy/grad_norm"] > 0 for s in steps)
    assert steps[0]["policy/ref_kl"] == pytest.approx(0, abs=1e-3) and steps[-1]["policy/ref_kl"] > 0
    assert max(s["mismatch/logp_absdiff_max"] for s in steps) < 0.1  # bfloat16: sampler and learner round unlike


@pytest.mark.usefixtures("actors_find_programs")
def test_actors_get_adapters_and_give_the_same_bits(run: Run, straight: Path, tmp_path: Path) -> None:
    train(replace(run, cluster=replace(run.cluster, actors=1)), tmp_path / "run")
    for one, other in zip(trained(run, straight), trained(run, tmp_path / "run"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_resumed_adapter_goes_on_with_the_same_bits(run: Run, straight: Path, tmp_path: Path) -> None:
    short = replace(run, schedule=replace(run.schedule, generations=1))
    train(short, tmp_path / "run")
    train(recipe.resume(tmp_path / "run", ["--schedule.generations", "2"]), tmp_path / "run", resume=True)
    for one, other in zip(trained(run, straight), trained(run, tmp_path / "run"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_only_adapters_are_published_after_the_base(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    publish = InProcess.publish

    def noting(self: InProcess, policy: str, version: int, params: models.Params) -> None:
        sent.append((version, sum(np.size(x) for x in jax.tree.leaves(params))))
        publish(self, policy, version, params)

    monkeypatch.setattr(InProcess, "publish", noting)
    train(replace(run, schedule=replace(run.schedule, generations=1)), tmp_path / "run")
    (_, whole), *later = sent
    assert [version for version, _ in sent] == [0, 1, 2]
    assert all(0 < size < whole / 2 for _, size in later)


def test_an_exported_adapter_is_part_of_the_matrices(run: Run, straight: Path, tmp_path: Path) -> None:
    assert export(straight, None, tmp_path / "out") == 2
    base, made = models.load(run.policies["main"].model), models.load(tmp_path / "out")
    ids = jnp.arange(5, 25)[None]
    place = jnp.arange(20)[None], jnp.ones((1, 20), jnp.int32)
    opened = Learner(run, straight)
    opened.restore()
    updater, state = opened.joint.updaters["main"], opened.joint.policies["main"]
    with_adapter = models.forward(updater.config, updater.weights(state.params), ids, *place)
    alone = models.forward(made.config, made.params, ids, *place)
    before = models.forward(base.config, base.params, ids, *place)
    assert float(jnp.abs(alone - before).max()) > 0.05
    np.testing.assert_allclose(alone, with_adapter.astype(jnp.float32), atol=0.1)  # the run computes in bfloat16


def test_a_separate_critic_beside_an_adapter_is_refused(random_model: Path) -> None:
    with pytest.raises(UserError, match=r"kind = separate .* use shared"):
        small_run("quickstart-ppo", random_model, "--policies.main.lora.rank 2 --update.critic.kind separate")


def test_every_weight_can_be_trained_in_bfloat16(random_model: Path, tmp_path: Path) -> None:
    train(small_run("quickstart", random_model, "--policies.main.dtype bfloat16"), tmp_path / "run")
    steps = read_metrics(tmp_path / "run", "step")
    assert all(np.isfinite(s["policy/grad_norm"]) and s["policy/grad_norm"] > 0 for s in steps)


def prompts_of(name: str, folder: Path, flags: str) -> list[str]:
    """What one step of a recipe for pretrained models asks the embedded one."""
    small = (
        "--policies.main.model tiny --policies.main.lora.rank 2 --schedule.generations 1 "
        "--schedule.steps-per-generation 1 --acquire.tasks-per-unit 2 --acquire.group-size 2 "
        "--evaluate.tasks 2 --evaluate.tasks-between 2 --roles.solve.max-new-tokens 8 "
    )
    train(recipe.resolve(name, (small + flags).split()), folder)
    return [json.loads(line)["prompt"] for line in (folder / "samples.jsonl").read_text().splitlines()]


def test_the_recipe_for_pretrained_models_runs(tmp_path: Path) -> None:
    asked = prompts_of("pretrained", tmp_path / "run", "--propose.per-ask 2 --acquire.mix.procedural 10")
    assert asked and all(prompt.startswith("<bos>Q: ") and prompt.count("Q: ") == 5 for prompt in asked)


def test_the_recipe_for_programs_of_pretrained_models_runs(tmp_path: Path) -> None:
    mix = "--acquire.mix.procedural 10 --output.samples-per-step 12 --roles.propose.max-new-tokens 8"
    asked = prompts_of("azr-python", tmp_path / "run", f"{mix} --policies.main.template.examples 1")
    blocks = [prompt.removeprefix("<bos>").split("\n\n") for prompt in asked]
    assert {len(parts) for parts in blocks} == {2}  # an example, and the question
    solve = [parts for parts in blocks if not parts[0].startswith("new function to")]
    assert any("\nf([" in parts[-1] for parts in solve)  # deduce
    assert any("\nf(?) == " in parts[-1] for parts in solve)  # abduce
    assert any(parts[-1].startswith("f([") for parts in solve)  # induce
