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
from selfplay.models.config import from_hf, to_hf
from selfplay.models.decoder import abstract_params
from selfplay.models.hf import INDEX, flatten, locate, tensor_name
from selfplay.models.sharding import make_mesh, parameter_shardings
from tests.models.shapes import FAMILIES as SHAPES
from tests.models.shapes import GEMMA3, LLAMA, QWEN2, QWEN3, random_params


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "qwen3"
    save(folder, QWEN3, random_params(QWEN3), printable_ascii(), extra={"README.md": "A model.\n"})
    return folder


@pytest.fixture
def damaged(saved, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(saved, tmp_path / "copy")


@pytest.mark.parametrize("config", SHAPES, ids=lambda c: c.family)
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


@pytest.mark.parametrize("shard_bytes", [2**30, 20_000], ids=["single", "sharded"])
def test_load_then_save_reproduces_every_tensor_in_its_stored_dtype(shard_bytes, tmp_path):
    def stored(name):
        return jnp.float32 if "norm" in name else jnp.bfloat16

    names = [tensor_name(path, GEMMA3) for path, _ in flatten(abstract_params(GEMMA3))]
    dtypes = {name: stored(name) for name in names}
    save(tmp_path / "a", GEMMA3, random_params(GEMMA3), printable_ascii(), dtype=dtypes, shard_bytes=shard_bytes)
    model = load(tmp_path / "a")
    assert model.params["embed"].dtype == jnp.float32
    save(tmp_path / "b", model.config, model.params, model.tokenizer, dtype=model.stored, shard_bytes=shard_bytes)
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert files == sorted(p.name for p in (tmp_path / "b").iterdir())
    assert (INDEX in files) == (shard_bytes == 20_000) and ("model.safetensors" in files) == (INDEX not in files)
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    tensors = safetensors.numpy.load_file(next((tmp_path / "a").glob("*.safetensors")))
    assert {name: array.dtype for name, array in tensors.items()}.items() <= {
        name: np.dtype(dtype) for name, dtype in dtypes.items()
    }.items()


def test_weights_go_straight_into_their_sharding_and_are_the_same(tmp_path):
    save(tmp_path / "m", QWEN2, random_params(QWEN2), printable_ascii(), shard_bytes=20_000)
    mesh = make_mesh(1, 4, 2)
    spread, whole = load(tmp_path / "m", mesh=mesh).params, load(tmp_path / "m").params
    jax.tree.map(np.testing.assert_array_equal, spread, whole)
    shardings = parameter_shardings(abstract_params(QWEN2), mesh)
    jax.tree.map(lambda x, sharding: x.sharding.is_equivalent_to(sharding, x.ndim) or pytest.fail(), spread, shardings)
    weight = spread["layers"]["0"]["attn"]["q"]["weight"]
    assert weight.addressable_shards[0].data.shape == (16, 8)


def test_the_text_half_of_a_gemma_with_eyes_is_read(tmp_path):
    save(tmp_path / "m", GEMMA3, random_params(GEMMA3), printable_ascii())
    plain = load(tmp_path / "m")
    raw = json.loads((tmp_path / "m" / "config.json").read_text())
    _tensors(tmp_path / "m", lambda t: t.update({"vision_tower.x": np.ones(2, np.float32)} |
                                                {f"language_model.{k}": t.pop(k) for k in list(t)}))  # fmt: skip
    (tmp_path / "m" / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": raw}))
    model = load(tmp_path / "m")
    assert model.config == plain.config
    jax.tree.map(np.testing.assert_array_equal, model.params, plain.params)


def test_configs_of_transformers_4_are_read():
    old = {"model_type": "gemma3_text", "vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 7, "head_dim": 32,
           "num_attention_heads": 4, "num_key_value_heads": 1, "intermediate_size": 32, "sliding_window": 512,
           "rope_theta": 1e6, "rope_local_base_freq": 5e3, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
           "query_pre_attn_scalar": 168}  # fmt: skip
    config = from_hf(old)
    assert config.sliding_layers == (0, 1, 2, 3, 4, 6) and config.tie_embeddings and config.query_scale == 168
    assert (config.rope_scaling.factor, config.rope_theta, config.local_rope_theta) == (8.0, 1e6, 5e3)
    window = from_hf(to_hf(QWEN2) | {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1})
    assert (window.sliding_window, window.sliding_layers) == (9, (1,))
    assert from_hf(to_hf(QWEN2) | {"sliding_window": 9}).sliding_layers == ()


@pytest.mark.parametrize("config", SHAPES, ids=lambda c: c.family)
def test_transformers_opens_every_family_as_the_same_model(config, tmp_path):
    transformers = pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(json.dumps(to_hf(config)))
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert from_hf(theirs.to_dict()) == config


def test_names_and_layout_are_those_of_hugging_face(saved):
    tensors = safetensors.numpy.load_file(saved / "model.safetensors")
    params = load(saved).params
    assert len(tensors) == 2 + QWEN3.layers * 11
    np.testing.assert_array_equal(tensors["model.layers.1.mlp.down_proj.weight"],
                                  params["layers"]["1"]["mlp"]["down"]["weight"])  # fmt: skip
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


def _index(folder, weight_map):
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


SPOILS = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json: no such file"),
    "torn config": (lambda f: (f / "config.json").write_text("{"), "not readable as JSON"),
    "config list": (lambda f: (f / "config.json").write_text("[]"), "expected a JSON object"),
    "family": (lambda f: _edit(f, model_type="gpt2"), "'gpt2' is not supported.*llama, qwen2, qwen3, gemma2"),
    "no family": (lambda f: _edit(f, model_type=None), "model_type None is not supported"),
    "activation": (lambda f: _edit(f, hidden_act="relu"), "hidden_act 'relu'"),
    "window": (lambda f: _edit(f, use_sliding_window=True, sliding_window=0, max_window_layers=0), "sliding_window"),
    "layer types": (lambda f: _edit(f, use_sliding_window=True, sliding_window=4, layer_types=["x"]), "layer_types"),
    "rope": (lambda f: _edit(f, rope_parameters={"rope_type": "yarn"}), "rope_type 'yarn'"),
    "type": (lambda f: _edit(f, hidden_size="wide"), "wrong type"),
    "heads": (lambda f: _edit(f, num_key_value_heads=3), "multiple of kv_heads"),
    "vocabulary": (
        lambda f: _edit(f, vocab_size=90),
        "tokenizer.json: token .* has id 90, but vocab_size in config.json is 90",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json: no such file"),
    "torn tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer.json: damaged"),
    "no eos": (
        lambda f: (f / "tokenizer_config.json").write_text("{}"),
        "tokenizer_config.json: field eos_token: expected a token .* found None",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors"),
    "torn weights": (lambda f: (f / "model.safetensors").write_bytes(b"\x08" * 40), "damaged"),
    "missing tensor": (lambda f: _tensors(f, lambda t: t.pop("model.norm.weight")), "'model.norm.weight' is missing"),
    "misshapen": (
        lambda f: _edit(f, intermediate_size=64),
        r"down_proj.weight' has shape \(32, 48\), expected \(32, 64\)",
    ),
    "leftover tensor": (lambda f: _tensors(f, lambda t: t.update(x=np.ones(2, np.float32))), "tensor 'x' .* no place"),
    "leftover layer": (lambda f: _edit(f, num_hidden_layers=1), r"layers.1.*\(11 in all\) has no place in a qwen3"),
    "integer tensor": (
        lambda f: _tensors(f, lambda t: t.update({"model.norm.weight": np.ones(32, np.int8)})),
        "'model.norm.weight' is I8, expected one of F32, BF16, F16",
    ),
    "missing shard": (
        lambda f: _index(f, {"model.norm.weight": "b.safetensors"}),
        r"b.safetensors: no such file; .*norm",
    ),
    "moved tensor": (lambda f: _index(f, {"x.weight": "a.safetensors"}), "a.safetensors: tensor 'x.weight' is missing"),
    "index elsewhere": (lambda f: _index(f, {"x": "../a.safetensors"}), "expected the name of a file beside it"),
    "empty index": (lambda f: _index(f, {}), "field 'weight_map'"),
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


def test_a_special_token_beyond_the_vocabulary_is_no_mistake_but_eos_there_is(damaged):
    tokenizer = load(damaged).tokenizer.backend
    tokenizer.add_special_tokens([f"<image{i}>" for i in range(40)])  # ids 100 to 139; the model has 128
    tokenizer.save(str(damaged / "tokenizer.json"))
    assert load(damaged).tokenizer.vocab_size == 140
    (damaged / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<image30>"}))
    with pytest.raises(UserError, match="'<image30>' has id 130"):
        load(damaged)


def test_a_hub_id_is_taken_from_the_cache_else_fetched(saved, monkeypatch):
    asked = []

    def snapshot_download(model_id, *, allow_patterns, local_files_only=False):
        asked.append(local_files_only)
        if model_id == "org/cached" or (model_id == "org/known" and not local_files_only):
            return str(saved)
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network\nand more lines")

    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert locate("org/cached") == saved and asked == [True]
    assert locate("org/known") == saved and asked == [True, True, False]
    with pytest.raises(UserError, match="'org/none': no such folder, and the hub gives none .*no network"):
        locate("org/none")
    asked.clear()
    with pytest.raises(UserError, match="embedded models: tiny"):
        locate("a/b/c")
    assert asked == []
