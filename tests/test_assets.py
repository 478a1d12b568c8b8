"""The embedded models are what their cards say: small, openable by transformers, good at short tasks only."""

from __future__ import annotations

import pytest

from selfplay import recipe
from selfplay.examine import Subject, examine
from selfplay.models import Model, load
from selfplay.models.hf import EMBEDDED, locate
from selfplay.pretrain import read_settings

LIMIT_BYTES = 8_000_000


@pytest.fixture(scope="module")
def tiny_dsl() -> Model:
    return load("tiny-dsl")


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_folder_is_small_and_complete(name: str) -> None:
    model = load(name)
    names = {p.name for p in model.path.iterdir()}
    assert {"config.json", "tokenizer.json", "model.safetensors", "README.md", "pretrain.toml"} <= names
    assert sum(p.stat().st_size for p in model.path.iterdir()) < LIMIT_BYTES
    assert model.config.max_positions >= 512


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_card_was_made_by_the_settings_in_the_package(name: str) -> None:
    folder = locate(name)
    settings = folder.parents[1] / "recipes" / "pretrain" / f"{name}.toml"
    assert read_settings(folder / "pretrain.toml", {}) == read_settings(settings, {})
    assert "Held-out scores" in (folder / "README.md").read_text()


def test_transformers_opens_its_config_and_tokenizer(tiny: Model) -> None:
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(tiny.path)
    assert config.model_type == tiny.config.family and config.num_hidden_layers == tiny.config.layers
    tokenizer = AutoTokenizer.from_pretrained(tiny.path)
    text = "3142rsi="
    assert tokenizer(text)["input_ids"] == tiny.tokenizer.prompt(text).tolist()
    assert tokenizer.decode(tiny.tokenizer.encode(text)) == text


def test_it_solves_short_chains_and_not_long_ones(tiny: Model) -> None:
    run = recipe.resolve("quickstart", ["--envs.chain.difficulties", "1", "8"])
    found = examine(Subject("tiny", str(tiny.path), tiny.params), run, tasks=96, samples=1)
    assert found["eval/test/chain/1/pass@1"] > 0.9
    assert found["eval/test/chain/8/pass@1"] < 0.1


def test_the_one_of_dsl_solves_small_programs_and_not_large_ones(tiny_dsl: Model) -> None:
    run = recipe.resolve("azr", ["--envs.dsl.difficulties", "3", "8", "--envs.dsl.modes", "deduce"])
    found = examine(Subject("tiny-dsl", str(tiny_dsl.path), tiny_dsl.params), run, tasks=32, samples=1)
    assert found["eval/test/dsl/3/pass@1"] > 0.8
    assert found["eval/test/dsl/8/pass@1"] < 0.1


@pytest.mark.proof
def test_it_is_reproducible(tiny: Model, tmp_path) -> None:
    """`selfplay pretrain` on one processor and jaxlib gives the same bits twice; minutes."""
    from selfplay.pretrain import pretrain_command

    for name in ("a", "b"):
        pretrain_command(tiny.path / "pretrain.toml", tmp_path / name, steps=150)
    assert load(tmp_path / "a").digest == load(tmp_path / "b").digest
