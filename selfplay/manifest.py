"""The list of a generation's files with their hashes, written last: without it, or with another file, there is none."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfplay.records import FORMAT

MANIFEST = "manifest.json"
Layout = dict[str, tuple[str, tuple[int, ...]]]
"""Leaf name -> (dtype, shape)."""
File = tuple[str, int, str]
"""Path, bytes and sha256 of a file of a generation."""


class Damaged(Exception):
    """What a generation's files are is not what its manifest says."""


def folder_digest(path: Path) -> str:
    """sha256 over the names and contents of all files below a folder, in the order of their names."""
    h = hashlib.sha256()
    for file in _files(path):
        name = file.relative_to(path).as_posix().encode()
        h.update(len(name).to_bytes(8, "big") + name + bytes.fromhex(file_digest(file)))
    return h.hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def hashes(folder: Path, *, writer: int) -> list[File]:
    """The files below the folder that a process wrote: those that Orbax keeps apart for it; all others are 0's."""
    mine = [p for p in _files(folder) if _writer(p) == writer]
    return [(p.relative_to(folder).as_posix(), p.stat().st_size, file_digest(p)) for p in mine]


def _writer(path: Path) -> int:
    found = [part.removeprefix("ocdbt.process_") for part in path.parts if part.startswith("ocdbt.process_")]
    return int(found[-1]) if found else 0


def write_manifest(folder: Path, files: Sequence[File], layout: Layout) -> None:
    """Put the manifest there by one rename."""
    body = {"format": FORMAT, "files": files, "arrays": layout}
    temporary = folder / (MANIFEST + ".tmp")
    with temporary.open("w") as f:
        json.dump({**body, "digest": _body_digest(body)}, f, indent=1)
        f.flush()
        os.fsync(f.fileno())
    os.replace(temporary, folder / MANIFEST)


def read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except ValueError as e:
        raise Damaged(f"{MANIFEST} is not JSON ({e})") from None
    if not isinstance(manifest, dict) or manifest.pop("digest", None) != _body_digest(manifest):
        raise Damaged(f"{MANIFEST} does not match its own digest")
    return manifest


def _body_digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def verify_file(folder: Path, name: str, size: int, digest: str) -> None:
    path = folder / name
    if not path.is_file():
        raise Damaged(f"{name} is missing")
    if path.stat().st_size != size:
        raise Damaged(f"{name} has {path.stat().st_size} bytes, expected {size}")
    if file_digest(path) != digest:
        raise Damaged(f"{name} has other bytes than were written")
