"""Hugging Face folders in and out: config.json, tokenizer files, safetensors in one file or in shards.

Loading looks at the names, shapes and dtypes of all tensors before it reads one. Then each parameter goes from the file
into its place on the devices, slice by slice: a process never holds more than one of them in host memory besides.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jax.sharding import Mesh, NamedSharding

from selfplay.errors import UserError
from selfplay.models.config import ModelConfig, read_config, read_json, to_hf
from selfplay.models.decoder import Params, abstract_params
from selfplay.models.hub import fetch, is_id
from selfplay.models.sharding import parameter_shardings
from selfplay.models.tokenizer import FILES, Tokenizer, load_tokenizer

EMBEDDED = ("tiny", "tiny-dsl", "tiny-dsl-induce")
"""Names of models that come with the package, in selfplay/assets."""

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

IGNORED = re.compile(r"^lm_head\.weight$|\.rotary_emb\.inv_freq$|^(model\.)?(vision_tower|multi_modal_projector)\.")
"""Tensors that may lie in a file without being a parameter here."""

TENSOR_NAMES: dict[str, str] = {
    "embed": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head": "lm_head.weight",
    "attn_norm.weight": "input_layernorm.weight",
    "attn.q.weight": "self_attn.q_proj.weight",
    "attn.k.weight": "self_attn.k_proj.weight",
    "attn.v.weight": "self_attn.v_proj.weight",
    "attn.o.weight": "self_attn.o_proj.weight",
    "attn.q.bias": "self_attn.q_proj.bias",
    "attn.k.bias": "self_attn.k_proj.bias",
    "attn.v.bias": "self_attn.v_proj.bias",
    "attn.o.bias": "self_attn.o_proj.bias",
    "attn.q_norm.weight": "self_attn.q_norm.weight",
    "attn.k_norm.weight": "self_attn.k_norm.weight",
    "attn_post_norm.weight": "post_attention_layernorm.weight",
    "mlp_norm.weight": "post_attention_layernorm.weight",
    "mlp_post_norm.weight": "post_feedforward_layernorm.weight",
    "mlp.gate.weight": "mlp.gate_proj.weight",
    "mlp.up.weight": "mlp.up_proj.weight",
    "mlp.down.weight": "mlp.down_proj.weight",
    "mlp.gate.bias": "mlp.gate_proj.bias",
    "mlp.up.bias": "mlp.up_proj.bias",
    "mlp.down.bias": "mlp.down_proj.bias",
}
"""Our parameter (within its layer) -> Hugging Face tensor of the same shape.

Where blocks have four norms (Gemma), `mlp_norm` has the name PRE_MLP_NORM."""

PRE_MLP_NORM = "pre_feedforward_layernorm.weight"


SHARD_BYTES = 4 * 2**30
"""Weights beyond this size are written in several files."""

STORED = {"F32": np.dtype(np.float32), "BF16": np.dtype(jnp.bfloat16), "F16": np.dtype(np.float16)}
"""Dtypes of tensors that can be read, by their safetensors name."""


@dataclass(frozen=True)
class Model:
    """A model as it was opened: what it is, its weights, its tokenizer, and a digest of the files."""

    config: ModelConfig
    params: Params
    tokenizer: Tokenizer
    digest: str
    """sha256 over config, tokenizer and weight files."""
    path: Path
    stored: Mapping[str, np.dtype[Any]]
    """Dtype of each tensor in the file, by its Hugging Face name: `save(dtype=stored)` writes them back bit for bit."""


def load(path_or_name: str | Path, *, dtype: Any = jnp.float32, mesh: Mesh | None = None) -> Model:
    """Open an embedded model by its name, a local Hugging Face folder, or a model of the hub ("organisation/name").

    Args:
      dtype: parameters are cast to it; None keeps what the file holds.
      mesh: where the parameters go, each laid out by `sharding.PARAMETER_SPECS`; None = one device.

    Raises:
      UserError: the folder is missing or damaged, of an unknown family, or a tensor is missing, misshapen or unknown.
    """
    folder = locate(path_or_name)
    config = read_config(folder)
    tokenizer = load_tokenizer(folder)
    tokenizer.check_fits(config.vocab_size, folder)
    tensors = _tensors(folder, config)
    abstract = abstract_params(config)
    where = None if mesh is None else parameter_shardings(abstract, mesh)
    return Model(
        config=config,
        params=_read(tensors, config, abstract, dtype, where),
        tokenizer=tokenizer,
        digest=digest(folder),
        path=folder,
        stored={name: STORED[found.get_dtype()] for name, found in tensors.items()},
    )


def locate(path_or_name: str | Path) -> Path:
    """The folder of an embedded name, of a path, or of a hub id; an embedded name wins, then an existing path."""
    name = str(path_or_name)
    folder = Path(str(resources.files("selfplay"))) / "assets" / name if name in EMBEDDED else Path(name).expanduser()
    if folder.is_dir():
        return folder
    if is_id(name) and not folder.exists():
        return fetch(name)
    raise UserError(f"model {name!r}: no such folder; embedded models: {', '.join(EMBEDDED)}")


def save(
    folder: str | Path,
    config: ModelConfig,
    params: Params,
    tokenizer: Tokenizer,
    *,
    dtype: Any = jnp.float32,
    extra: Mapping[str, str] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a Hugging Face folder that transformers opens; the whole folder appears at once or not at all.

    Args:
      dtype: of the stored tensors; a mapping gives each one its own, such as `Model.stored`.
      extra: more text files by name, such as a model card README.md.
      shard_bytes: the largest file of weights; more are written when these do not suffice.

    Raises:
      UserError: the folder exists already and is not empty.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists already; a model is never replaced, choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.parent / f".{folder.name}.{os.getpid()}.part"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        usual = dtype.get(TENSOR_NAMES["embed"], jnp.float32) if isinstance(dtype, Mapping) else dtype
        _write_json(draft / "config.json", to_hf(config, dtype=jnp.dtype(usual).name))
        tokenizer.save(draft)
        for name, content in (extra or {}).items():
            (draft / name).write_text(content, encoding="utf-8")
        _write_tensors(draft, config, params, dtype, shard_bytes)
        for file in draft.iterdir():
            file.chmod(0o644)
            _fsync(file)
        draft.replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    _fsync(folder.parent)


def digest(folder: Path) -> str:
    """sha256 over the files that make the model what it is: their names, sizes and bytes, in name order."""
    names = {"config.json", "generation_config.json", *FILES}
    total = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.name in names or file.suffix == ".safetensors":
            with file.open("rb") as stream:
                part = hashlib.file_digest(stream, "sha256").hexdigest()
            total.update(f"{file.name} {file.stat().st_size} {part}\n".encode())
    return total.hexdigest()


def tensor_name(path: tuple[str, ...], config: ModelConfig) -> str:
    """The Hugging Face name of the parameter at a path of our tree."""
    if path[0] != "layers":
        return TENSOR_NAMES[".".join(path)]
    name = ".".join(path[2:])
    theirs = PRE_MLP_NORM if config.post_norms and name == "mlp_norm.weight" else TENSOR_NAMES[name]
    return f"model.layers.{path[1]}.{theirs}"


def _write_tensors(folder: Path, config: ModelConfig, params: Params, dtype: Any, shard_bytes: int) -> None:
    """One model.safetensors, or shards and their index; only one shard at a time is copied to host memory."""
    shards: list[dict[str, tuple[Any, np.dtype[Any]]]] = [{}]
    total = room = 0
    for path, value in flatten(params):
        name = tensor_name(path, config)
        stored = np.dtype(dtype.get(name, jnp.float32) if isinstance(dtype, Mapping) else dtype)
        size = value.size * stored.itemsize
        if shards[-1] and room + size > shard_bytes:
            shards.append({})
            room = 0
        shards[-1][name] = (value, stored)
        total, room = total + size, room + size
    files = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    if len(shards) == 1:
        files = [SINGLE]
    for file, shard in zip(files, shards, strict=True):
        arrays = {name: _host(*entry) for name, entry in shard.items()}
        safetensors.numpy.save_file(arrays, folder / file, metadata={"format": "pt"})
    if len(shards) > 1:
        of = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
        _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": of})


def _host(value: Any, dtype: np.dtype[Any]) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(value).astype(dtype))


def _read(
    tensors: Mapping[str, Any], config: ModelConfig, abstract: Params, dtype: Any, where: Params | None
) -> Params:
    """Every parameter of the tree, cast to `dtype`, in its sharding (None = uncommitted, on the default device)."""

    def one(path: Any, shape: jax.ShapeDtypeStruct, sharding: NamedSharding | None = None) -> jax.Array:
        keys = tuple(str(part.key) for part in path)
        stored = tensors[tensor_name(keys, config)]
        wanted = STORED[stored.get_dtype()] if dtype is None else dtype

        def part(index: Any) -> np.ndarray:
            return np.asarray(stored[index], wanted)

        if sharding is None:
            return jnp.asarray(part((slice(None),) * len(shape.shape)))
        return jax.make_array_from_callback(shape.shape, sharding, part)

    return dict(jax.tree_util.tree_map_with_path(one, abstract, *([] if where is None else [where])))


def _tensors(folder: Path, config: ModelConfig) -> dict[str, Any]:
    """Hugging Face name -> an open safetensors slice, for exactly the tensors of the config; nothing is read yet.

    A vision tower, an output matrix that is tied to the embedding, and old rotary tables are passed over.
    """
    found = _open_slices(folder)
    expected = {tensor_name(path, config): leaf.shape for path, leaf in flatten(abstract_params(config))}
    unknown = [name for name in found if name not in expected and not IGNORED.search(name)]
    if unknown:
        raise UserError(
            f"{found[unknown[0]][0]}: tensor {unknown[0]!r} ({len(unknown)} in all) has no place in a"
            f" {config.family} model of this config.json"
        )
    for name, shape in expected.items():
        if name not in found:
            raise UserError(f"{folder}: tensor {name!r} is missing; expected one of shape {shape}")
        file, stored = found[name]
        if tuple(stored.get_shape()) != shape:
            raise UserError(f"{file}: tensor {name!r} has shape {tuple(stored.get_shape())}, expected {shape}")
        if stored.get_dtype() not in STORED:
            raise UserError(f"{file}: tensor {name!r} is {stored.get_dtype()}, expected one of {', '.join(STORED)}")
    return {name: found[name][1] for name in expected}


def _open_slices(folder: Path) -> dict[str, tuple[Path, Any]]:
    """Every tensor of the folder by its plain name: the file that holds it, and an open slice."""
    found: dict[str, tuple[Path, Any]] = {}
    for file, wanted in _files(folder).items():
        if not file.is_file():
            raise UserError(f"{file}: no such file; {INDEX} expects tensor {next(iter(wanted))!r} in it")
        try:
            opened = safetensors.safe_open(file, framework="numpy")
        except (OSError, safetensors.SafetensorError) as error:
            raise UserError(f"{file}: damaged ({error})") from error
        names = list(opened.keys())
        lost = [name for name in wanted if name not in names]
        if lost:
            raise UserError(f"{file}: tensor {lost[0]!r} is missing; {INDEX} expects it there")
        found |= {name.replace("language_model.", "", 1): (file, opened.get_slice(name)) for name in names}
    return found


def _files(folder: Path) -> dict[Path, list[str]]:
    """Files of weights, and the tensors that the index expects in each (none where there is no index)."""
    if (folder / SINGLE).is_file():
        return {folder / SINGLE: []}
    if not (folder / INDEX).is_file():
        raise UserError(f"{folder}: no {SINGLE} and no {INDEX} in it")
    files: dict[Path, list[str]] = {}
    of = read_json(folder / INDEX).get("weight_map")
    if not isinstance(of, dict) or not of:
        raise UserError(f"{folder / INDEX}: field 'weight_map': expected tensor names and their files, got {of!r}")
    for name, file in of.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise UserError(f"{folder / INDEX}: tensor {name!r}: expected the name of a file beside it, got {file!r}")
        files.setdefault(folder / file, []).append(name)
    return files


def flatten(params: Params) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, leaf) of every parameter, in the tree's own order."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        yield tuple(str(part.key) for part in path), leaf


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
