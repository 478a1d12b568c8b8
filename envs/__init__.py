"""Task environments: plain Python, no JAX. `make("chain")` gives one; `names()` lists them.

A name is a key of BUILTIN, an entry point of the group `selfplay.envs` (other people's packages),
or `module:Class` (a scratch file; the current folder is searched too).
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from envs.base import Env, EnvUserError, UnknownEnv, nearest

BUILTIN = {
    "chain": "envs.chain:Chain",
    "sums": "envs.sums:Sums",
    "dsl": "envs.dsl:Dsl",
    "python": "envs.python:Python",
    "jsonl": "envs.jsonl:Jsonl",
    "kuhn": "envs.kuhn:Kuhn",
    "leduc": "envs.leduc:Leduc",
    "tictactoe": "envs.tictactoe:TicTacToe",
    "nim": "envs.nim:Nim",
    "openspiel": "envs.adapters.openspiel:OpenSpiel",
}
"""Name -> module:Class, imported when first made."""

GROUP = "selfplay.envs"


def names() -> tuple[str, ...]:
    """All names that are installed: ours, then those of other packages."""
    return (*BUILTIN, *(name for name in sorted(_installed()) if name not in BUILTIN))


def make(name: str, /, **options: Any) -> Env:
    """A fresh environment.

    Args:
      name: one of `names()`, or `module:Class`.
      options: the arguments of its class, as they stand in a recipe.

    Raises:
      EnvUserError: one clear line for an unknown name, a class that is no environment, or a wrong option.
    """
    target = _target(name)
    factory = _load(target)
    _check_options(name, factory, options)
    try:
        env = factory(**options)
    except ValueError as error:
        raise EnvUserError(f"{name}: {error}") from error
    if not isinstance(env, Env):
        raise EnvUserError(f"{name}: {target} is no environment: it needs spec, task(), size() and open()")
    return env


def describe(name: str) -> str:
    """One line on an environment, without making it (some need options): the first line of its module's docstring."""
    text = inspect.getdoc(sys.modules[_load(_target(name)).__module__]) or ""
    return (text.splitlines() or [""])[0].removeprefix(f"`{name}`: ")


def _target(name: str) -> str:
    """module:Class of a name."""
    target = BUILTIN.get(name) or (_installed()[name].value if name in _installed() else name)
    if ":" not in target:
        raise UnknownEnv(f"unknown environment {name!r}; {nearest(name, names())} (a scratch file is module:Class)")
    return target


def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _load(target: str) -> Any:
    """The class at module:Class."""
    module_name, _, class_name = target.partition(":")
    if not class_name or not all(part.isidentifier() for part in module_name.split(".")):
        raise UnknownEnv(f"unknown environment {target!r}: a scratch file is named module:Class")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except (ImportError, SyntaxError) as error:
        raise UnknownEnv(f"environment {target!r}: cannot import {module_name}: {_one_line(error)}") from error
    factory = getattr(module, class_name, None)
    if not callable(factory):
        classes = [n for n, v in vars(module).items() if inspect.isclass(v) and v.__module__ == module.__name__]
        raise UnknownEnv(
            f"environment {target!r}: {module_name} has no class {class_name}; {nearest(class_name, classes)}"
        )
    return factory


def _check_options(name: str, factory: Any, options: dict[str, Any]) -> None:
    parameters = _parameters(factory)
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for option in options:
        if option not in parameters:
            raise EnvUserError(f"{name}: unknown option {option!r}; {nearest(option, parameters)}")
    for option, parameter in parameters.items():
        needed = parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL
        if needed and option not in options:
            raise EnvUserError(f"{name}: option {option!r} must be given")


def _parameters(factory: Any) -> dict[str, inspect.Parameter]:
    """What a factory takes by name; a class that hands `**others` on takes what its bases take."""
    found = dict(inspect.signature(factory).parameters)
    for base in inspect.getmro(factory)[1:] if inspect.isclass(factory) else ():
        passes_on = next((name for name, p in found.items() if p.kind is p.VAR_KEYWORD), None)
        if passes_on is None or base is object:
            break
        if "__init__" in vars(base):
            del found[passes_on]
            own = list(inspect.signature(vars(base)["__init__"]).parameters.items())[1:]  # without self
            found = dict(own) | found
    return found


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
