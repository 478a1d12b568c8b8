"""Hugging Face folders in and out: config.json, tokenizer files, model.safetensors."""

from __future__ import annotations

import hashlib
import json
import os
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

from selfplay.errors import UserError
from selfplay.models.config import ModelConfig, read_config, to_hf
from selfplay.models.decoder import Params, abstract_params
from selfplay.models.tokenizer import FILES, Tokenizer, load_tokenizer

EMBEDDED = ("tiny",)
"""Names of models that come with the package, in selfplay/assets."""

TENSOR_NAMES: dict[str, str] = {
    "embed": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head": "lm_head.weight",
    "attn_norm.weight": "input_layernorm.weight",
    "attn.q.kernel": "self_attn.q_proj.weight",
    "attn.k.kernel": "self_attn.k_proj.weight",
    "attn.v.kernel": "self_attn.v_proj.weight",
    "attn.o.kernel": "self_attn.o_proj.weight",
    "attn.q.bias": "self_attn.q_proj.bias",
    "attn.k.bias": "self_attn.k_proj.bias",
    "attn.v.bias": "self_attn.v_proj.bias",
    "attn.o.bias": "self_attn.o_proj.bias",
    "attn.q_norm.weight": "self_attn.q_norm.weight",
    "attn.k_norm.weight": "self_attn.k_norm.weight",
    "mlp_norm.weight": "post_attention_layernorm.weight",
    "mlp.gate.kernel": "mlp.gate_proj.weight",
    "mlp.up.kernel": "mlp.up_proj.weight",
    "mlp.down.kernel": "mlp.down_proj.weight",
}
"""Our parameter (within its layer) -> Hugging Face tensor; Llama, Qwen 2 and Qwen 3 share all names.

A `kernel` is stored transposed, [out, in].
"""


@dataclass(frozen=True)
class Model:
    """A model as it was opened: what it is, its weights, its tokenizer, and a digest of the files."""

    config: ModelConfig
    params: Params
    tokenizer: Tokenizer
    digest: str
    """sha256 over config, tokenizer and weight files."""
    path: Path


def load(path_or_name: str | Path, *, dtype: Any = jnp.float32) -> Model:
    """Open the embedded model ("tiny") or a local Hugging Face folder.

    Args:
      dtype: parameters are cast to it; None keeps what the file holds.

    Raises:
      UserError: the folder is missing or damaged, of an unknown family, or a tensor is missing or misshapen.
    """
    folder = locate(path_or_name)
    config = read_config(folder)
    tokenizer = load_tokenizer(folder)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, the model only {config.vocab_size}"
        )
    params = _load_params(folder, config, dtype)
    return Model(config=config, params=params, tokenizer=tokenizer, digest=digest(folder), path=folder)


def locate(path_or_name: str | Path) -> Path:
    """The folder of an embedded name or of a path; an existing path wins only when it is not an embedded name."""
    if str(path_or_name) in EMBEDDED:
        folder = Path(str(resources.files("selfplay"))) / "assets" / str(path_or_name)
    else:
        folder = Path(path_or_name).expanduser()
    if not folder.is_dir():
        raise UserError(f"model {str(path_or_name)!r}: no such folder; embedded models: {', '.join(EMBEDDED)}")
    return folder


def save(
    folder: str | Path,
    config: ModelConfig,
    params: Params,
    tokenizer: Tokenizer,
    *,
    dtype: Any = jnp.float32,
    extra: Mapping[str, str] | None = None,
) -> None:
    """Write a Hugging Face folder that transformers opens; the whole folder appears at once or not at all.

    Args:
      dtype: of the stored tensors, float32 or bfloat16.
      extra: more text files by name, such as a model card README.md.

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
        text = json.dumps(to_hf(config, dtype=jnp.dtype(dtype).name), indent=2, sort_keys=True) + "\n"
        (draft / "config.json").write_text(text, encoding="utf-8")
        tokenizer.save(draft)
        for name, content in (extra or {}).items():
            (draft / name).write_text(content, encoding="utf-8")
        tensors = dict(_to_tensors(params, dtype))
        safetensors.numpy.save_file(tensors, draft / "model.safetensors", metadata={"format": "pt"})
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


def tensor_name(path: tuple[str, ...]) -> str:
    """The Hugging Face name of the parameter at a path of our tree."""
    if path[0] == "layers":
        return f"model.layers.{path[1]}.{TENSOR_NAMES['.'.join(path[2:])]}"
    return TENSOR_NAMES[".".join(path)]


def _to_tensors(params: Params, dtype: Any) -> Iterator[tuple[str, np.ndarray]]:
    for path, value in flatten(params):
        array = np.asarray(value).astype(jnp.dtype(dtype))
        yield tensor_name(path), np.ascontiguousarray(array.T if path[-1] == "kernel" else array)


def _load_params(folder: Path, config: ModelConfig, dtype: Any) -> Params:
    """All parameters of the tree, each from the file that holds it."""
    where = _tensor_files(folder)
    params: Params = {}
    for path, expected in flatten(abstract_params(config)):
        name = tensor_name(path)
        if name not in where:
            raise UserError(f"{folder}: tensor {name!r} is missing")
        array = where[name].get_tensor(name)
        array = array.T if path[-1] == "kernel" else array
        if array.shape != expected.shape:
            raise UserError(f"{folder}: tensor {name!r} has shape {array.shape}, expected {expected.shape}")
        node = params
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = jnp.asarray(array, dtype)
    return params


def _tensor_files(folder: Path) -> dict[str, Any]:
    """Tensor name -> the open safetensors file that holds it."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder}: no model.safetensors in it")
    where: dict[str, Any] = {}
    for file in files:
        try:
            opened = safetensors.safe_open(file, framework="numpy")
            where |= dict.fromkeys(opened.keys(), opened)
        except (OSError, safetensors.SafetensorError) as error:
            raise UserError(f"{file}: damaged ({error})") from error
    return where


def flatten(params: Params) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, leaf) of every parameter, in the tree's own order."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        yield tuple(str(part.key) for part in path), leaf


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
