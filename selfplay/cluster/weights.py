"""How weights travel on one machine: one flat file a version, checked by digest, mapped by every actor.

The learner writes `/dev/shm` (or the temporary folder, where that has no room) once; actors map it read-only, so K of
them share one copy. The folder is locked while its owner lives; one left by a killed learner is removed at the next
start.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import msgspec
import numpy as np

from selfplay.cluster.base import Params
from selfplay.errors import ActorError
from selfplay.records import encode

_PREFIX = "selfplay-weights-"
_ALIGN = 64
_ROOM = 8  # /dev/shm must have room for this many files of the size


class Leaf(msgspec.Struct, frozen=True):
    """One array in the flat file."""

    path: tuple[str, ...]
    """Keys from the root of the nested dict."""
    dtype: str
    shape: tuple[int, ...]
    offset: int


class Sheet(msgspec.Struct, frozen=True):
    """Where a version lies and what it must be."""

    file: str
    leaves: tuple[Leaf, ...]
    size: int
    digest: str
    """sha256 of the leaves' description and of the bytes."""


class WeightStore:
    """The learner's side: writes versions, removes them."""

    def __init__(self) -> None:
        self._folders: dict[Path, tuple[tempfile.TemporaryDirectory[str], IO[bytes]]] = {}
        for root in _roots():
            _sweep(root)

    def write(self, name: str, params: Params) -> Sheet:
        """Write a version as one file, renamed into place when whole.

        Raises:
          TypeError: params is not a nested dict of arrays with string keys.
        """
        arrays = [(path, np.asarray(leaf)) for path, leaf in _flatten(params)]
        leaves, size = _lay_out(arrays)
        file = self.folder(size) / f"{name}.bin"
        digest = hashlib.sha256(encode(leaves))
        temporary = file.with_suffix(".tmp")
        with temporary.open("wb") as f:
            for leaf, (_, array) in zip(leaves, arrays, strict=True):
                for part in (b"\0" * (leaf.offset - f.tell()), _bytes_of(array)):
                    digest.update(part)
                    f.write(part)
        os.replace(temporary, file)
        return Sheet(str(file), leaves, size, digest.hexdigest())

    def remove(self, sheet: Sheet) -> None:
        """Delete the file of a version; actors that have mapped it keep it."""
        Path(sheet.file).unlink(missing_ok=True)

    def folder(self, size: int = 0) -> Path:
        """A private folder with room for files of a size; gone after `close`, or at the next start after a kill."""
        roots = _roots()
        root = next((r for r in roots if shutil.disk_usage(r).free > _ROOM * size), roots[-1])
        if root not in self._folders:
            folder = tempfile.TemporaryDirectory(prefix=_PREFIX, dir=root)
            fresh = Path(folder.name) / "lock.tmp"
            lock = fresh.open("wb")
            fcntl.flock(lock, fcntl.LOCK_EX)
            fresh.rename(fresh.with_name("lock"))  # seen by others only once it is held
            self._folders[root] = folder, lock
        return Path(self._folders[root][0].name)

    def close(self) -> None:
        for folder, lock in self._folders.values():
            folder.cleanup()
            lock.close()
        self._folders.clear()


def read(sheet: Sheet) -> dict[str, Any]:
    """Map a version and check it: a nested dict of read-only NumPy arrays.

    Raises:
      ActorError: the file is missing or is not what the sheet says.
    """
    path = Path(sheet.file)
    if not path.is_file() or path.stat().st_size != sheet.size:
        raise ActorError(f"weights {path.name} are missing or cut short: expected {sheet.size} bytes")
    data = np.memmap(path, np.uint8, "r") if sheet.size else np.empty(0, np.uint8)
    digest = hashlib.sha256(encode(sheet.leaves))
    digest.update(data.data)
    if digest.hexdigest() != sheet.digest:
        raise ActorError(f"weights {path.name} have digest {digest.hexdigest()[:12]}, expected {sheet.digest[:12]}")
    tree: dict[str, Any] = {}
    for leaf in sheet.leaves:
        dtype = _dtype(leaf.dtype)
        size = int(np.prod(leaf.shape)) * dtype.itemsize
        node = tree
        for key in leaf.path[:-1]:
            node = node.setdefault(key, {})
        node[leaf.path[-1]] = np.asarray(data[leaf.offset : leaf.offset + size]).view(dtype).reshape(leaf.shape)
    return tree


def _flatten(tree: Params, path: tuple[str, ...] = ()) -> Iterable[tuple[tuple[str, ...], Any]]:
    for key in sorted(tree):
        if not isinstance(key, str):
            raise TypeError(f"published weights are nested dicts with string keys, got key {key!r}")
        value = tree[key]
        if isinstance(value, Mapping):
            yield from _flatten(value, (*path, key))
        elif hasattr(value, "dtype"):
            yield (*path, key), value
        else:
            raise TypeError(f"published weights are nested dicts of arrays, got {type(value).__name__} at {key!r}")


def _lay_out(arrays: list[tuple[tuple[str, ...], np.ndarray]]) -> tuple[tuple[Leaf, ...], int]:
    """Places in the flat file, each array at a multiple of 64 bytes; and the size of the file."""
    leaves, end = [], 0
    for path, array in arrays:
        offset = -(-end // _ALIGN) * _ALIGN
        leaves.append(Leaf(path, array.dtype.name, array.shape, offset))
        end = offset + array.nbytes
    return tuple(leaves), end


def _bytes_of(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _dtype(name: str) -> np.dtype[Any]:
    """`bfloat16` and its kin are ml_dtypes', the others NumPy's."""
    return np.dtype(getattr(ml_dtypes, name, name))


def _roots() -> list[Path]:
    shm = Path("/dev/shm")
    usable = shm.is_dir() and os.access(shm, os.W_OK)
    return [*([shm] if usable else []), Path(tempfile.gettempdir())]


def _sweep(root: Path) -> None:
    """Remove folders whose owner is gone: nobody holds their lock."""
    for folder in root.glob(_PREFIX + "*"):
        lock = folder / "lock"
        if not os.access(lock, os.W_OK):
            continue  # another user's, or just being made
        with lock.open("wb") as f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(folder, ignore_errors=True)
