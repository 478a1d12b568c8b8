"""Models of the Hugging Face hub: from its local cache where they are complete, else downloaded."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selfplay.errors import UserError

FILES = ["*.json", "*.jinja", "*.safetensors"]
"""What a model is made of; other weights and code in the repository stay where they are."""


def is_id(name: str) -> bool:
    """Whether a name has the form of a hub id: organisation/name."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name) is not None


def fetch(model_id: str) -> Path:
    """The folder of a hub model in the local cache, downloaded there when it is not complete.

    Raises:
      UserError: there is no such model, no right to read it, or no network.
    """
    return _fetch(model_id, FILES, lambda folder: any(folder.glob("*.safetensors")))


def fetch_config(model_id: str) -> Path:
    """A folder with the config.json of a hub model, and none of its weights unless they are there already."""
    return _fetch(model_id, ["config.json"], lambda folder: True)


def _fetch(model_id: str, files: list[str], complete: Callable[[Path], bool]) -> Path:
    from huggingface_hub import errors, snapshot_download

    broken: Any = getattr(errors, "HTTPError", OSError)  # of its HTTP library, when a download breaks off

    try:
        folder = Path(snapshot_download(model_id, allow_patterns=files, local_files_only=True))
        if (folder / "config.json").is_file() and complete(folder):
            return folder
    except (OSError, ValueError):  # not there, or only in part
        pass
    try:
        return Path(snapshot_download(model_id, allow_patterns=files))
    except (OSError, ValueError, broken) as error:
        reason = next(iter(str(error).strip().splitlines()), "")
        raise UserError(
            f"model {model_id!r}: no such folder, and the hub gives none by that name"
            f" ({type(error).__name__}: {reason}); embedded models: tiny"
        ) from error
