from __future__ import annotations

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from selfplay.errors import UserError
from selfplay.models import load, printable_ascii, save
from selfplay.models.config import FAMILIES, from_hf, to_hf
from tests.models.shapes import LLAMA, QWEN2, QWEN3, random_params


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "qwen3"
    save(folder, QWEN3, random_params(QWEN3), printable_ascii(), extra={"README.md": "A model.\n"})
    return folder


@pytest.fixture
def damaged(saved, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(saved, tmp_path / "copy")


@pytest.mark.parametrize("config", [QWEN3, QWEN2, LLAMA], ids=lambda c: c.family)
def test_save_then_load_keeps_every_bit(config, tmp_path):
    params = random_params(config)
    save(tmp_path / "m", config, params, printable_ascii())
    model = load(tmp_path / "m")
    assert model.config == config
    jax.tree.map(np.testing.assert_array_equal, model.params, params)


def test_bfloat16_is_kept_and_the_file_is_deterministic(tmp_path):
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), random_params(QWEN3))
    for name in ("a", "b"):
        save(tmp_path / name, QWEN3, params, printable_ascii(), dtype=jnp.bfloat16)
    a, b = (load(tmp_path / name, dtype=None) for name in ("a", "b"))
    jax.tree.map(np.testing.assert_array_equal, a.params, params)
    assert a.digest == b.digest
    assert a.params["embed"].dtype == jnp.bfloat16


def test_names_and_layout_are_those_of_hugging_face(saved):
    tensors = safetensors.numpy.load_file(saved / "model.safetensors")
    params = load(saved).params
    assert len(tensors) == 2 + QWEN3.layers * 11
    np.testing.assert_array_equal(tensors["model.layers.1.mlp.down_proj.weight"],
                                  params["layers"]["1"]["mlp"]["down"]["kernel"].T)  # fmt: skip
    assert tensors["model.layers.0.self_attn.k_proj.weight"].shape == (16, 32)  # [out, in]


def test_transformers_opens_config_and_tokenizer(saved):
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.from_pretrained(saved)
    assert (config.model_type, config.num_key_value_heads, config.head_dim) == ("qwen3", 2, 8)
    assert config.rope_parameters["rope_theta"] == QWEN3.rope_theta
    theirs, ours = transformers.AutoTokenizer.from_pretrained(saved), load(saved).tokenizer
    text = "3142rs=\n~ é"
    assert theirs(text).input_ids == ours.prompt(text).tolist()
    assert theirs.decode(ours.encode(text), skip_special_tokens=True) == ours.decode(ours.encode(text))
    assert (theirs.eos_token_id, theirs.pad_token_id) == (ours.eos_id, ours.pad_id)


def test_config_round_trips_and_reads_both_rope_forms():
    for config in (QWEN3, QWEN2, LLAMA):
        assert from_hf(to_hf(config)) == config
    old = to_hf(LLAMA) | {"rope_theta": 5e5}
    del old["rope_parameters"]
    old["rope_scaling"] = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                           "original_max_position_embeddings": 8192}  # fmt: skip
    config = from_hf(old)
    assert config.rope_theta == 5e5 and config.rope_scaling.factor == 8.0
    assert from_hf(to_hf(config)) == config


def test_eos_of_generation_config_wins(damaged):
    (damaged / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7]}))
    assert load(damaged).config.eos_ids == (2, 7)


def test_a_model_is_never_replaced(saved):
    with pytest.raises(UserError, match="exists already"):
        save(saved, QWEN3, random_params(QWEN3), printable_ascii())


def test_nothing_is_left_of_a_failed_save(tmp_path):
    with pytest.raises(KeyError):
        save(tmp_path / "m", QWEN3, {"unknown": jnp.ones(2)}, printable_ascii())
    assert list(tmp_path.iterdir()) == []


def test_digest_follows_weights_and_tokenizer_not_the_card(saved, damaged):
    before = load(saved).digest
    (damaged / "README.md").write_text("Another card.\n")
    assert load(damaged).digest == before
    (damaged / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>"}))
    assert load(damaged).digest != before


def _edit(folder, **fields):
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | fields))


def _tensors(folder, change):
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    change(tensors)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")


SPOILS = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json: no such file"),
    "torn config": (lambda f: (f / "config.json").write_text("{"), "not readable as JSON"),
    "config list": (lambda f: (f / "config.json").write_text("[]"), "expected a JSON object"),
    "family": (lambda f: _edit(f, model_type="gpt2"), "'gpt2' is not supported.*llama, qwen2, qwen3"),
    "no family": (lambda f: _edit(f, model_type=None), "model_type None is not supported"),
    "activation": (lambda f: _edit(f, hidden_act="relu"), "hidden_act 'relu'"),
    "window": (lambda f: _edit(f, use_sliding_window=True), "use_sliding_window"),
    "rope": (lambda f: _edit(f, rope_parameters={"rope_type": "yarn"}), "rope_type 'yarn'"),
    "type": (lambda f: _edit(f, hidden_size="wide"), "wrong type"),
    "heads": (lambda f: _edit(f, num_key_value_heads=3), "multiple of kv_heads"),
    "vocabulary": (lambda f: _edit(f, vocab_size=90), "tokenizer has 100 tokens, the model only 90"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json: no such file"),
    "torn tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer.json: damaged"),
    "no eos": (lambda f: (f / "tokenizer_config.json").write_text("{}"), "no eos_token"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors"),
    "torn weights": (lambda f: (f / "model.safetensors").write_bytes(b"\x08" * 40), "damaged"),
    "missing tensor": (lambda f: _tensors(f, lambda t: t.pop("model.norm.weight")), "'model.norm.weight' is missing"),
    "misshapen": (lambda f: _edit(f, intermediate_size=64), r"down_proj.weight' has shape .*expected \(64, 32\)"),
}


@pytest.mark.parametrize("name", SPOILS)
def test_a_damaged_folder_is_one_clear_line(damaged, name):
    spoil, message = SPOILS[name]
    spoil(damaged)
    with pytest.raises(UserError, match=message) as error:
        load(damaged)
    assert "\n" not in str(error.value)


def test_a_missing_folder_names_the_embedded_models(tmp_path):
    with pytest.raises(UserError, match="no such folder; embedded models: tiny"):
        load(tmp_path / "nowhere")


def test_every_family_has_an_architecture_to_write():
    for family in FAMILIES:
        assert to_hf(from_hf(to_hf(LLAMA) | {"model_type": family}))["architectures"][0].lower().startswith(family)
