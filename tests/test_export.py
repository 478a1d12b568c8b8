"""A generation as a Hugging Face folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from selfplay import models, recipe
from selfplay.checkpoint import Generations
from selfplay.config import Policy, Run
from selfplay.errors import UserError
from selfplay.export import export


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A run folder with generations 0 (the base) and 1 (every weight raised by 1)."""
    folder = tmp_path_factory.mktemp("export")
    config = models.ModelConfig(
        family="llama",
        vocab_size=128,
        hidden_size=16,
        layers=1,
        heads=2,
        kv_heads=1,
        head_dim=8,
        intermediate_size=16,
        max_positions=64,
    )
    params = models.init_params(config, jax.random.key(0))
    models.save(folder / "base", config, params, models.printable_ascii(vocab_size=128, model_max_length=64))
    resolved = replace(Run(), policies={"main": Policy(model=str(folder / "base"))})
    (folder / "run").mkdir()
    (folder / "run" / "config.toml").write_text(recipe.to_toml(resolved))
    generations = Generations(folder / "run" / "generations", keep=3)
    raised = jax.tree.map(lambda x: x + 1, params)
    for number, tree in enumerate((params, raised)):
        generations.save(number, {"policies": {"main": {"params": tree}}}, {}, blobs={})
    return folder / "run", {0: params, 1: raised}


@pytest.mark.parametrize(("asked", "written"), [(None, 1), (0, 0), (1, 1)])
def test_the_exported_weights_are_those_of_the_generation(run, asked, written, tmp_path: Path) -> None:
    folder, trees = run
    assert export(folder, asked, tmp_path / "out") == written
    again = models.load(tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, again.params, trees[written])
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"Generation {written} of a `selfplay` run: recipe `quickstart`" in card


def test_the_same_generation_gives_the_same_bytes(run, tmp_path: Path) -> None:
    for name in ("a", "b"):
        export(run[0], 1, tmp_path / name)
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert "model.safetensors" in files and "tokenizer.json" in files
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_what_cannot_be_exported_is_one_line(run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no generation 7; on disk: 0, 1"):
        export(run[0], 7, tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="exists already"):
        export(run[0], 1, tmp_path)
    assert not (tmp_path / "out").exists()
