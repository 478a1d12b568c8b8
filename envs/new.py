"""`selfplay envs new NAME`: write a small working environment and its test, for its author to edit."""

from __future__ import annotations

import keyword
import re
import sys
from pathlib import Path

from envs.base import EnvUserError

TEMPLATE = Path(__file__).parent / "template"


def new(name: str, folder: str | Path = ".") -> list[Path]:
    """Write NAME.py and test_NAME.py into a folder.

    The environment works as it stands, as `NAME:Name` (see `class_name`) from that folder; `pytest` runs its test.

    Args:
      name: lower-case letters, digits and underscores; the name of the module and of the environment.
      folder: made when it is missing.

    Returns:
      The two files.

    Raises:
      EnvUserError: for a name that cannot be used, or a file that exists; nothing is written then.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name):
        raise EnvUserError(f"environment name must be 1 to 40 of a-z, 0-9 and _, starting with a letter, got {name!r}")
    if keyword.iskeyword(name) or name in sys.stdlib_module_names or name in ("envs", "selfplay", "pytest"):
        raise EnvUserError(f"environment name {name!r} is taken by Python or by us; choose another, such as my_{name}")
    place = Path(folder)
    texts = {f"{name}.py": _written("my_env.py", name), f"test_{name}.py": _written("check_my_env.py", name)}
    for file in texts:
        if (place / file).exists():
            raise EnvUserError(f"{place / file} exists already; nothing was written")
    if place.exists() and not place.is_dir():
        raise EnvUserError(f"{place} is not a folder; nothing was written")
    try:
        place.mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            (place / file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise EnvUserError(f"cannot write to {place}: {error.strerror or error}") from error
    return [place / file for file in texts]


def class_name(name: str) -> str:
    """The class of an environment: `word_ladder` has WordLadder."""
    return "".join(part.capitalize() for part in name.split("_"))


def _written(template: str, name: str) -> str:
    text = (TEMPLATE / template).read_text(encoding="utf-8").replace("envs.template.my_env", name)
    return text.replace("my_env", name).replace("MyEnv", class_name(name))
