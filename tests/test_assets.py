"""The embedded model is what its card says: small, openable by transformers, good at short chains only."""

from __future__ import annotations

import pytest

from selfplay import recipe
from selfplay.examine import Subject, examine
from selfplay.models import Model
from selfplay.pretrain import read_settings

LIMIT_BYTES = 8_000_000


def test_the_folder_is_small_and_complete(tiny: Model) -> None:
    names = {p.name for p in tiny.path.iterdir()}
    assert {"config.json", "tokenizer.json", "model.safetensors", "README.md", "pretrain.toml"} <= names
    assert sum(p.stat().st_size for p in tiny.path.iterdir()) < LIMIT_BYTES
    assert tiny.config.max_positions >= 512


def test_the_card_was_made_by_the_settings_in_the_package(tiny: Model) -> None:
    assert read_settings(tiny.path / "pretrain.toml", {}) == read_settings(None, {})
    assert "Held-out scores" in (tiny.path / "README.md").read_text()


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


@pytest.mark.proof
def test_it_is_reproducible(tiny: Model, tmp_path) -> None:
    """`selfplay pretrain` on one processor and jaxlib gives the same bits twice; minutes."""
    from selfplay.models import load
    from selfplay.pretrain import pretrain_command

    for name in ("a", "b"):
        pretrain_command(tiny.path / "pretrain.toml", tmp_path / name, steps=150)
    assert load(tmp_path / "a").digest == load(tmp_path / "b").digest
