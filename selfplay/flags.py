"""Command-line flags over the config tree: `--update.learning-rate 3e-4` sets `update.learning_rate`.

The flags are read by the types of the fields, so that a mistake is one line of ours; tyro only draws the help page.
Both spellings, `a-b` and `a_b`, are accepted, and both `--a.b value` and `--a.b=value`. Lists take several values.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, Literal, Union, get_args, get_origin

from selfplay.config import Run
from selfplay.errors import UserError
from selfplay.tree import Table, describe, field_types, leaf_paths, unknown_field

Path = tuple[str, ...]


def parse(argv: Sequence[str], kind: type = Run) -> tuple[Table, list[str]]:
    """Flags as a nested table, ready to be merged over a recipe, and the arguments that are no flags.

    Raises:
      UserError: an unknown field, a missing value or a value of another type.
    """
    table: Table = {}
    positional: list[str] = []
    rest = list(argv)
    while rest:
        token = rest.pop(0)
        if not token.startswith("--"):
            positional.append(token)
            continue
        name, equals, inline = token[2:].partition("=")
        path, leaf = find(name, kind)
        given = [inline] if equals else _take(rest, leaf)
        _set(table, path, _value(given, leaf, ".".join(path)))
    return table, positional


def find(name: str, kind: type = Run) -> tuple[Path, Any]:
    """The path and type of the field that a flag names; keys chosen by the user may hold dots themselves."""
    found = _descend(name, kind)
    if found is None:
        raise UserError(unknown_field(name.replace("-", "_"), leaf_paths(kind)))
    return found


def pairs(flag: str, given: Sequence[str]) -> dict[str, Any]:
    """The values of a flag that is given as KEY=VALUE, once for each key: true, false, a number, or the text itself.

    Raises:
      UserError: one of them is not of that form.
    """
    found: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise UserError(f"{flag} needs KEY=VALUE, got {text!r}")
        found[key] = _read(value, Any)
    return found


def show_help(run: Run, *, prog: str, description: str) -> None:
    """Print every field with its type, its default in this recipe and its docstring."""
    import tyro

    try:
        tyro.cli(
            Run,
            prog=prog,
            description=description,
            default=run,
            args=["--help"],
            config=(tyro.conf.FlagConversionOff,),
        )
    except SystemExit:
        sys.stdout.flush()


def _descend(name: str, kind: Any) -> tuple[Path, Any] | None:
    if is_dataclass(kind) and isinstance(kind, type):
        head, _, rest = name.partition(".")
        types_of, head = field_types(kind), head.replace("-", "_")
        if head not in types_of:
            return None
        below = _descend(rest, types_of[head])
        return None if below is None else ((head, *below[0]), below[1])
    if get_origin(kind) is Mapping:
        return _descend_keys(name, *get_args(kind))
    return ((), kind) if not name else None


def _descend_keys(name: str, key: Any, value: Any) -> tuple[Path, Any] | None:
    """Try the shortest key first: `envs.my.module:Env.weight` has the key `my.module:Env`."""
    parts = name.split(".")
    for cut in range(1, len(parts) + 1):
        head, below = ".".join(parts[:cut]), _descend(".".join(parts[cut:]), value)
        if head and below is not None and (get_origin(key) is not Literal or head in get_args(key)):
            return (head, *below[0]), below[1]
    return None


def _take(rest: list[str], kind: Any) -> list[str]:
    """The values that belong to a flag: one, or for a list all up to the next flag."""
    count = 0
    several = get_origin(kind) is tuple
    while count < len(rest) and not rest[count].startswith("--") and (several or count < 1):
        count += 1
    taken, rest[:count] = rest[:count], []
    return taken


def _value(given: list[str], kind: Any, path: str) -> Any:
    if get_origin(kind) is tuple:
        items = [part for text in given for part in text.split(",") if part]
        args = get_args(kind)
        item_types = [args[0]] * len(items) if args[-1] is Ellipsis else list(args)
        read = [_read(i, t) for i, t in zip(items, item_types, strict=False)]
        if len(read) != len(item_types) or any(r is _UNREADABLE for r in read) or len(items) != len(item_types):
            raise UserError(f"{path} must be {describe(kind)}, got {' '.join(given)!r}")
        return read
    if not given:
        raise UserError(f"--{path} needs a value: {describe(kind)}")
    value = _read(given[0], kind)
    return given[0] if value is _UNREADABLE else value  # the strict builder names field, type and text


class _Unreadable:
    """A text that is no value of the type."""


_UNREADABLE = _Unreadable()


def _read(text: str, kind: Any) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        order = sorted(get_args(kind), key=lambda k: (k is str, k is not type(None)))
        return next((v for k in order if (v := _read(text, k)) is not _UNREADABLE), _UNREADABLE)
    if get_origin(kind) is Literal:
        return text if text in get_args(kind) else _UNREADABLE
    if kind is Any:
        return next(v for k in (bool, int, float, str) if (v := _read(text, k)) is not _UNREADABLE)
    if kind is str:
        return text
    if kind in (bool, type(None)):
        words: dict[str, bool | None] = {"true": True, "false": False} if kind is bool else {"none": None}
        return words.get(text.lower(), _UNREADABLE)
    return _number(text, whole=kind is int)


def _number(text: str, *, whole: bool) -> Any:
    try:
        value = float(text)
    except ValueError:
        return _UNREADABLE
    if not whole:
        return value
    if text.lstrip("+-").isdigit():
        return int(text)
    return int(value) if value.is_integer() else _UNREADABLE


def _set(table: Table, path: Path, value: Any) -> None:
    for name in path[:-1]:
        table = table.setdefault(name, {})
    table[path[-1]] = value
