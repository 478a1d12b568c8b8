"""Where runs live: a run is named by its folder, or by its name under runs/."""

from __future__ import annotations

import os
import re
from pathlib import Path

from selfplay.errors import UserError, nearest

ROOT = Path("runs")
"""Where runs go that are given no folder."""
CONFIG = "config.toml"
"""The resolved config in a run folder: a folder with it is a run."""

PART = CONFIG + ".part"
"""What a run that was killed in its very first moment leaves behind."""


def find_run(name_or_path: str | Path) -> Path:
    """The folder of an existing run.

    Raises:
      UserError: there is none of that path or name.
    """
    given = Path(name_or_path)
    for folder in (given, ROOT / given):
        if (folder / CONFIG).is_file():
            return folder
    if given.is_dir():
        raise UserError(f"{given} is not a run folder: there is no {CONFIG} in it")
    known = [p.parent.name for p in ROOT.glob(f"*/{CONFIG}")]
    raise UserError(f"no run {str(name_or_path)!r}; under {ROOT}/: {nearest(str(given.name), known)}")


def new_run(recipe: str, out: Path | None) -> Path:
    """A folder for a new run, not created yet: `out`, or runs/RECIPE, runs/RECIPE-2, ... whichever is free.

    Raises:
      UserError: `out` holds something already, or no folder can be made there.
    """
    below = next(p for p in (out or ROOT).absolute().parents if p.exists())
    if not below.is_dir() or not os.access(below, os.W_OK):
        raise UserError(f"{out or ROOT} cannot be made: {below} is {'not writable' if below.is_dir() else 'no folder'}")
    if out is None:
        count = 1
        while not is_free(folder := ROOT / (recipe if count == 1 else f"{recipe}-{count}")):
            count += 1
        return folder
    if not is_free(out):
        resumable = " add --resume to go on with it, or" if (out / CONFIG).is_file() else ""
        raise UserError(f"{out} exists already:{resumable} choose another --out")
    return out


def latest_run(recipe: str) -> Path:
    """The newest of runs/RECIPE, runs/RECIPE-2, ..., for a resume that names no folder."""
    pattern = re.compile(re.escape(recipe) + r"(?:-(\d+))?")
    found = {int(m[1] or 1): p.parent for p in ROOT.glob(f"*/{CONFIG}") if (m := pattern.fullmatch(p.parent.name))}
    if not found:
        raise UserError(f"nothing to resume: no run of {recipe} under {ROOT}/; name its folder with --out")
    return found[max(found)]


def is_free(folder: Path) -> bool:
    """Whether a folder does not exist, or holds nothing."""
    return not folder.exists() or (folder.is_dir() and all(p.name == PART for p in folder.iterdir()))
