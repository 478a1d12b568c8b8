"""Plain tables (what TOML holds) to and from the tree of frozen dataclasses in config/, strictly.

A path is a dotted field name, `update.learning_rate`. Every complaint is one line: the field, what was expected,
what came, the nearest names. Validation of values stays with the dataclasses themselves.
"""

from __future__ import annotations

import difflib
import json
import math
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from selfplay.errors import UserError

T = TypeVar("T")
Table = dict[str, Any]


def field_types(kind: Any) -> dict[str, Any]:
    """Field name -> resolved type of a dataclass, in the order of declaration."""
    hints = get_type_hints(kind)
    return {f.name: hints[f.name] for f in fields(kind)}


def build(kind: type[T], table: Mapping[str, Any], path: str = "") -> T:
    """The dataclass that a table describes; fields that it leaves out keep their defaults.

    Raises:
      UserError: an unknown field, a wrong type, or a value that the dataclass refuses.
    """
    types_of = field_types(kind)
    for name in table:
        if name not in types_of:
            raise UserError(unknown_field(_join(path, name), (_join(path, n) for n in leaf_paths(kind))))
    return kind(**{name: convert(value, types_of[name], _join(path, name)) for name, value in table.items()})


def convert(value: Any, kind: Any, path: str) -> Any:
    """A plain value as the type of a field; only int -> float and list -> tuple are bent."""
    if is_dataclass(kind) and isinstance(kind, type):
        return build(kind, _table(value, path), path)
    origin, args = get_origin(kind), get_args(kind)
    if origin is Mapping:
        return {_key(k, args[0], path): convert(v, args[1], _join(path, k)) for k, v in _table(value, path).items()}
    if kind is Any:
        return _plain_or_refuse(value, path)
    if _accepts(value, kind):
        if origin is tuple:
            return tuple(convert(v, t, path) for v, t in zip(value, _item_types(args, len(value)), strict=True))
        return float(value) if kind is float or (float in args and type(value) is int and int not in args) else value
    raise UserError(f"{path} must be {describe(kind)}, got {value!r}{_hint(value, kind)}")


def describe(kind: Any) -> str:
    """A type in words."""
    if kind in _WORDS:
        return _WORDS[kind]
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return str(args[0]) if len(args) == 1 else "one of " + ", ".join(map(str, args))
    if origin is tuple:
        if args[-1] is Ellipsis:
            return f"a list of: {describe(args[0])}"
        return f"a list of {len(args)}: {', '.join(describe(a) for a in args)}"
    if origin in (Union, types.UnionType):
        return " or ".join(describe(a) for a in args)
    return "a table"


def plain(value: Any) -> Any:
    """A tree of dataclasses as plain tables; None stays None."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, tuple | list) else value


def merge(below: Mapping[str, Any], above: Mapping[str, Any], replaced: Iterable[str] = (), path: str = "") -> Table:
    """`above` laid over `below`, table by table; tables at the paths in `replaced` are not merged but replaced."""
    out = dict(below)
    for name, value in above.items():
        here, old = _join(path, name), out.get(name)
        if isinstance(old, Mapping) and isinstance(value, Mapping) and here not in replaced:
            value = merge(old, value, replaced, here)
        out[name] = value
    return out


def dump_toml(table: Mapping[str, Any]) -> str:
    """A plain table as TOML, in its own order: the same table gives the same text. TOML has no None: a comment."""
    return "\n".join(_lines(table, ())).strip() + "\n"


def leaf_paths(kind: Any, path: str = "") -> Iterator[str]:
    """Every field that can be set, dotted; a key that the user chooses is written NAME."""
    if is_dataclass(kind) and isinstance(kind, type):
        for name, sub in field_types(kind).items():
            yield from leaf_paths(sub, _join(path, name))
    elif get_origin(kind) is Mapping and get_args(kind)[1] is not Any:
        key, sub = get_args(kind)
        for name in get_args(key) or ("NAME",):
            yield from leaf_paths(sub, _join(path, name))
    else:
        yield path


def unknown_field(path: str, valid: Iterable[str]) -> str:
    """The line that says a field does not exist, with the nearest: by initials, by whole path, by last name."""
    names = sorted(set(valid))
    last = path.rsplit(".", 1)[-1]
    close = [n for n in names if "".join(word[:1] for word in n.rsplit(".", 1)[-1].split("_")) == last]
    close += [n for n in difflib.get_close_matches(path, names, n=3, cutoff=0.75) if n not in close]
    ends = {n.rsplit(".", 1)[-1] for n in names}
    for end in difflib.get_close_matches(last, ends, n=2, cutoff=0.7):
        close += [n for n in names if n.rsplit(".", 1)[-1] == end and n not in close]
    if not close:
        close = [n for n in names if n.rpartition(".")[0] == path.rpartition(".")[0]][:8]
        if close:
            return f"unknown field {path}; valid there: {', '.join(close)}"
        close = _of_a_word(path, names) or list(dict.fromkeys(n.split(".")[0] for n in names))
        return f"unknown field {path}; near it: {', '.join(close)}"
    return f"unknown field {path}: did you mean {' or '.join(close[:3])}?"


def _of_a_word(path: str, names: Sequence[str]) -> list[str]:
    """The first eight fields that have a word of the path, or nearly: `model.path` finds `policies.NAME.model`."""
    for word in path.split("."):
        words = {w for n in names for w in n.split(".")}
        if near := difflib.get_close_matches(word, words, n=2, cutoff=0.75):
            return [n for close in near for n in names if close in n.split(".")][:8]
    return []


_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "none",
    Any: "plain data",
}


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _table(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{path} must be a table, got {value!r}")
    return value


def _key(key: str, kind: Any, path: str) -> str:
    """The key of a mapping, checked where only some exist."""
    if get_origin(kind) is Literal and key not in get_args(kind):
        raise UserError(unknown_field(_join(path, key), (_join(path, k) for k in get_args(kind))))
    return key


def _item_types(args: tuple[Any, ...], length: int) -> tuple[Any, ...]:
    return (args[0],) * length if args[-1] is Ellipsis else args


def _accepts(value: Any, kind: Any) -> bool:
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(_accepts(value, a) for a in args)
    if origin is Literal:
        return isinstance(value, str) and value in args
    if origin is tuple:
        if not isinstance(value, list | tuple) or (args[-1] is not Ellipsis and len(value) != len(args)):
            return False
        return all(_accepts(v, t) for v, t in zip(value, _item_types(args, len(value)), strict=True))
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is kind


def _hint(value: Any, kind: Any) -> str:
    """The nearest of some names, where a name was expected."""
    names = [n for k in (kind, *get_args(kind)) if get_origin(k) is Literal for n in get_args(k)]
    close = difflib.get_close_matches(value, names, n=1, cutoff=0.5) if isinstance(value, str) else []
    return f": did you mean {close[0]}?" if close else ""


def _plain_or_refuse(value: Any, path: str) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain_or_refuse(v, _join(path, str(k))) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_or_refuse(v, path) for v in value]
    if type(value) in (bool, int, float, str):
        return value
    raise UserError(f"{path} must be true, false, a number, text, or a list or table of these, got {value!r}")


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    leaves = {k: v for k, v in table.items() if not isinstance(v, Mapping)}
    tables = {k: v for k, v in table.items() if isinstance(v, Mapping)}
    if path and (leaves or not tables):
        yield f"\n[{'.'.join(_toml_key(p) for p in path)}]"
    for name, value in leaves.items():
        yield f"# {_toml_key(name)}: none" if value is None else f"{_toml_key(name)} = {_toml_value(value)}"
    for name, sub in tables.items():
        yield from _lines(sub, (*path, name))


def _toml_key(name: str) -> str:
    bare = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if bare else _toml_text(name)


def _toml_text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _toml_text(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_toml_key(k)} = {_toml_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(v) for v in value) + "]"
    return repr(value)
