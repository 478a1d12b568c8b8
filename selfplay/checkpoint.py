"""A generation on disk: all of it, or nothing.

    generations/0003/arrays/        one Orbax item: every array of every policy, flat, by name
                     state/         one Orbax item: JSON (counters, baselines, objective, versions, config)
                     blobs/NAME     opaque bytes (the task archive)
                     manifest.json  path, size and sha256 of every file above, renamed into place last

Orbax commits the first two as one composite, but does not notice a flipped bit afterwards; so everything is hashed
once it lies there, and a generation without a matching manifest does not exist.
Orbax (0.3 s to import) is imported by the methods that need it.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from selfplay.errors import CheckpointError
from selfplay.hosts import Hosts
from selfplay.manifest import MANIFEST, Damaged, File, Layout, hashes, read_manifest, verify_file, write_manifest
from selfplay.records import FORMAT, decode, encode

PyTree = Any

_log = logging.getLogger(__name__)

_NAME = re.compile(r"\d{4,}")
_LEFTOVER = re.compile(r"\d{4,}\.orbax-checkpoint-tmp.*")


class Generations:
    """The generations of one run.

    Args:
      folder: `runs/NAME/generations`; made by the first save.
      keep: how many of the newest generations stay, besides generation 0 and the exempt ones.
      report: is told in one line of every damaged generation that is passed over.
      hosts: the processes that save and load together, all seeing the same folder; every other method is for process
        0, which alone has checked what it then asks all to load.
    """

    def __init__(
        self, folder: Path, keep: int, *, report: Callable[[str], None] = _log.warning, hosts: Hosts | None = None
    ) -> None:
        if keep < 1:
            raise ValueError(f"keep must be >= 1, got {keep}")
        self.folder, self.keep, self._report = Path(folder), keep, report
        self._hosts = hosts or Hosts()
        self._verified: set[int] = set()

    def path(self, generation: int) -> Path:
        """The folder of a generation."""
        return self.folder / f"{generation:04d}"

    def all(self) -> list[int]:
        """Generations that were saved to their end, oldest first; their files are not checked here."""
        return sorted(int(p.name) for p in self._entries(_NAME) if (p / MANIFEST).exists())

    def newest(self, *, before: int | None = None) -> int | None:
        """The newest generation whose files all match its manifest, or None.

        Args:
          before: look only at generations below this one.

        Raises:
          CheckpointError: a generation was written in another format.
        """
        for generation in reversed(self.all()):
            if before is not None and generation >= before:
                continue
            try:
                self._verify(generation)
            except Damaged as e:
                self._report(f"generation {generation} is damaged and passed over: {e}")
                continue
            return generation
        return None

    def earlier(self, generation: int, *, tried: int) -> int:
        """The newest complete generation before one; where that is the one tried last, the one before it, if any.

        Raises:
          CheckpointError: there is none.
        """
        found = self.newest(before=generation)
        if found is None:
            raise CheckpointError(f"{self.folder} has no complete generation before {generation} to roll back to")
        return (self.newest(before=found) or 0) if found == tried and found > 0 else found

    def remove_after(self, generation: int) -> None:
        """Delete all later generations."""
        for later in [g for g in self.all() if g > generation]:
            self.remove(later)

    def save(
        self,
        generation: int,
        arrays: PyTree,
        state: Mapping[str, Any],
        *,
        blobs: Mapping[str, bytes],
        exempt: Collection[int] = (),
    ) -> None:
        """Write a generation, in place of one of the same number, then remove the ones past retention.

        Killed at any moment, it leaves either no such generation or the whole of it.

        Args:
          arrays: pytree of arrays, `{"policies": {name: {"params": ..., "opt_state": ...}}}`; typed PRNG keys
            are not taken, and keys of dicts hold no `/`.
          state: what JSON can hold; keys of dicts are strings.
          blobs: named bytes; of these and of `state`, what process 0 gives is written.
          exempt: generations that retention leaves alone (opponents and references in use).
        """
        leaves, state = _named_leaves(arrays), json.loads(json.dumps(state))  # refused before anything is touched
        folder = self.path(generation)
        if self._hosts.leads:
            self.remove(generation)
            self.folder.mkdir(parents=True, exist_ok=True)
        self._orbax.save(folder, leaves, state)
        if self._hosts.leads:
            (folder / "blobs").mkdir()
            for name, data in blobs.items():
                (folder / "blobs" / name).write_bytes(data)
        hashed = self._hosts.gather(encode(hashes(folder, writer=self._hosts.process)))
        if self._hosts.leads:
            files = sorted(f for part in hashed for f in decode(part, list[File]))
            write_manifest(folder, files, {n: (str(a.dtype), tuple(a.shape)) for n, a in leaves.items()})
            self._prune(exempt)
        self._verified.discard(generation)

    def load(self, generation: int, abstract: PyTree) -> tuple[PyTree, dict[str, Any], dict[str, bytes]]:
        """The arrays, state and blobs of a generation.

        Args:
          abstract: a tree of the very structure that was saved; its leaves (arrays, or `jax.ShapeDtypeStruct`)
            say shape, dtype and sharding. A NumPy leaf comes back as NumPy.

        Raises:
          CheckpointError: missing, damaged, of another format, or with other arrays than `abstract` names.
        """
        saved = self._checked(generation)
        wanted = _named_leaves(abstract)
        _compare(f"generation {generation}", wanted, saved)
        found = self._orbax.load(self.path(generation), wanted)
        names = list(wanted)
        arrays = jax.tree.unflatten(jax.tree.structure(abstract), [found[n] for n in names])
        return arrays, self.load_state(generation), self.load_blobs(generation)

    def load_params(self, generation: int, policy: str, abstract: PyTree | None = None) -> PyTree:
        """The parameters of one policy alone, without its optimizer.

        Args:
          abstract: as in `load`, for the parameters alone; None = a nested dict of NumPy arrays.
        """
        saved = self._checked(generation)
        prefix = f"policies/{policy}/params/"
        part = {n: v for n, v in saved.items() if n.startswith(prefix)}
        if not part:
            known = sorted({n.split("/")[1] for n in saved if n.startswith("policies/")})
            raise CheckpointError(f"generation {generation} holds no policy {policy!r}; it has {', '.join(known)}")
        if abstract is None:
            like = {n: np.empty(shape, _dtype(dtype)) for n, (dtype, shape) in part.items()}
            found = self._orbax.load(self.path(generation), like)
            return _nest({n.removeprefix(prefix): a for n, a in found.items()})
        wanted = {prefix + n: leaf for n, leaf in _named_leaves(abstract).items()}
        _compare(f"policy {policy} of generation {generation}", wanted, part)
        found = self._orbax.load(self.path(generation), wanted)
        return jax.tree.unflatten(jax.tree.structure(abstract), [found[n] for n in wanted])

    def load_state(self, generation: int) -> dict[str, Any]:
        """The JSON part of a generation."""
        self._checked(generation)
        return self._orbax.load_state(self.path(generation))

    def load_blobs(self, generation: int) -> dict[str, bytes]:
        """The named bytes of a generation."""
        self._checked(generation)
        return {p.name: p.read_bytes() for p in sorted((self.path(generation) / "blobs").iterdir())}

    def remove(self, generation: int) -> None:
        """Delete a generation; its manifest goes first, so that a half-deleted one never looks complete."""
        folder = self.path(generation)
        self._verified.discard(generation)
        (folder / MANIFEST).unlink(missing_ok=True)
        for path in [folder, *self.folder.glob(f"{folder.name}.orbax-checkpoint-tmp*")]:
            if path.exists():
                shutil.rmtree(path)

    def clean(self) -> list[str]:
        """Remove what a killed save left behind; for the one process that writes here. Returns the names."""
        leftovers = self._entries(_LEFTOVER) + [p for p in self._entries(_NAME) if not (p / MANIFEST).exists()]
        for path in leftovers:
            shutil.rmtree(path)
        return sorted(p.name for p in leftovers)

    def _prune(self, exempt: Collection[int]) -> None:
        for generation in self.all()[: -self.keep]:
            if generation != 0 and generation not in exempt:
                self.remove(generation)

    def _entries(self, pattern: re.Pattern[str]) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return [p for p in self.folder.iterdir() if pattern.fullmatch(p.name) and p.is_dir()]

    def _verify(self, generation: int) -> Layout:
        """The layout of the arrays of a generation, once every file has been hashed (once a process)."""
        folder = self.path(generation)
        manifest = read_manifest(folder)
        if manifest["format"] != FORMAT:
            raise CheckpointError(
                f"{folder} is of format {manifest['format']}, this code reads format {FORMAT}: "
                "use the version of selfplay that wrote it"
            )
        if generation not in self._verified and self._hosts.leads:
            for name, size, digest in manifest["files"]:
                verify_file(folder, name, size, digest)
            self._verified.add(generation)
        return {name: (dtype, tuple(shape)) for name, (dtype, shape) in manifest["arrays"].items()}

    def _checked(self, generation: int) -> Layout:
        if not (self.path(generation) / MANIFEST).exists():
            known = ", ".join(str(g) for g in self.all()) or "none"
            raise CheckpointError(f"{self.folder} has no complete generation {generation}; it has {known}")
        try:
            return self._verify(generation)
        except Damaged as e:
            raise CheckpointError(f"generation {generation} is damaged: {e}") from None

    @cached_property
    def _orbax(self) -> _Orbax:
        return _Orbax()


class _Orbax:
    """The composite of a generation; the only place that knows Orbax."""

    def __init__(self) -> None:
        import orbax.checkpoint

        self._ocp = orbax.checkpoint

    def save(self, folder: Path, leaves: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Write arrays and state as one composite, into place by one rename."""
        ocp = self._ocp
        filled = {n: a for n, a in leaves.items() if a.size}  # Orbax takes no array of size 0: the layout has it
        items = ocp.args.Composite(arrays=ocp.args.PyTreeSave(filled), state=ocp.args.JsonSave(dict(state)))
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            checkpointer.save(folder.absolute(), items)

    def load(self, folder: Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Arrays by name, each as its abstract leaf asks."""
        ocp = self._ocp
        found = {n: _place(np.zeros(a.shape, a.dtype), a) for n, a in wanted.items() if not _size(a)}
        filled = {n: a for n, a in wanted.items() if _size(a)}
        how = {n: self._restore_args(a) for n, a in filled.items()}
        args = ocp.args.PyTreeRestore(filled, restore_args=how, partial_restore=True)
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            found.update(checkpointer.restore(folder.absolute(), ocp.args.Composite(arrays=args))["arrays"])
        return found

    def load_state(self, folder: Path) -> dict[str, Any]:
        ocp, me = self._ocp, jax.process_index()
        alone = ocp.options.MultiprocessingOptions(
            primary_host=me, active_processes={me}, barrier_sync_key_prefix="state"
        )
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler(), multiprocessing_options=alone) as checkpointer:
            found = checkpointer.restore(folder.absolute(), ocp.args.Composite(state=ocp.args.JsonRestore()))
        state: dict[str, Any] = found["state"]
        return state

    def _restore_args(self, leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray):
            return self._ocp.RestoreArgs(restore_type=np.ndarray)
        return self._ocp.ArrayRestoreArgs(sharding=_sharding(leaf), global_shape=leaf.shape, dtype=leaf.dtype)


def _named_leaves(tree: PyTree) -> dict[str, Any]:
    """Leaf name -> leaf, in the order of the tree: `policies/main/params/embed`."""
    leaves: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        parts = [jax.tree_util.keystr((key,), simple=True) for key in path]
        name = "/".join(parts)
        if name in leaves or any("/" in part for part in parts):
            raise ValueError(f"array name {name!r} is ambiguous: keys must hold no '/' and differ as text")
        leaves[name] = leaf if hasattr(leaf, "dtype") and hasattr(leaf, "shape") else np.asarray(leaf)
        if isinstance(leaves[name], np.generic):
            leaves[name] = np.asarray(leaves[name])
    return leaves


def _compare(what: str, wanted: Mapping[str, Any], saved: Layout) -> None:
    """One line when the arrays on disk are not the ones asked for."""
    asked: Layout = {n: (str(a.dtype), tuple(a.shape)) for n, a in wanted.items()}
    missing, extra = _some(asked.keys() - saved.keys()), _some(saved.keys() - asked.keys())
    if missing or extra:
        raise CheckpointError(
            f"{what} does not fit this configuration: not on disk: {missing or 'none'}; only on disk: {extra or 'none'}"
        )
    for name, leaf in asked.items():
        if leaf != saved[name]:
            raise CheckpointError(
                f"{what} does not fit this configuration: {name} is {_text(saved[name])}, expected {_text(leaf)}"
            )


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:3]) + (f" and {len(ordered) - 3} more" if len(ordered) > 3 else "")


def _text(leaf: tuple[str, tuple[int, ...]]) -> str:
    return f"{leaf[0]}{list(leaf[1])}"


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, leaf in flat.items():
        *parents, last = name.split("/")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = leaf
    return tree


def _size(leaf: Any) -> int:
    return int(np.prod(leaf.shape))


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(jnp.dtype(name))


def _sharding(leaf: Any) -> jax.sharding.Sharding:
    sharding = getattr(leaf, "sharding", None)
    return sharding if sharding is not None else jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def _place(array: np.ndarray, like: Any) -> Any:
    return array if isinstance(like, np.ndarray) else jax.device_put(array, _sharding(like))
