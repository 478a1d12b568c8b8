"""The trainer's side of values: strict decoding, one canonical text each, and what counts as equal.

**Equality policy.** Two values are equal when their canonical texts are: same type and same content, all the way down.

- `True`, `1` and `1.0` are three values; so are `0.0` and `-0.0`.
- NaN is no value (it does not equal itself): rejected. Infinity is: `1e999`.
- A tuple is no list, bytes are no text, a set is no frozenset (which is rejected, as it has no literal).
- Order counts in lists and tuples, not in sets and dicts.
- Floats are compared bit for bit: no tolerance.

Only exact built-in types pass: None, bool, int, float, str, bytes, list, tuple, set, dict.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterable
from typing import Any

from envs.sandbox import wire

MAX_TEXT = 65_536
"""Characters of a canonical text, and of a literal that is read."""


class NotPlain(ValueError):
    """It is no value by the policy above; the message says why."""


class TooLarge(NotPlain):
    """It would be, but for a bound."""


def canonical(value: Any) -> str:
    """The one text of a value, a Python literal that `ast.literal_eval` reads back as an equal value.

    Raises:
      NotPlain: the value, or something in it, is outside the policy.
      TooLarge: too deep, too many values, too many digits, or too long a text.
    """
    text = _Renderer().text(value, depth=0)
    if len(text) > MAX_TEXT:
        raise TooLarge(f"the value's text has {len(text)} characters, at most {MAX_TEXT} are allowed")
    return text


def canonical_literal(text: str) -> str:
    """The canonical text of a literal that someone wrote, a model perhaps.

    Raises:
      NotPlain: the text is no literal, or its value is outside the policy.
    """
    if len(text) > MAX_TEXT:
        raise TooLarge(f"a literal of {len(text)} characters, at most {MAX_TEXT} are read")
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise NotPlain(f"not a Python literal: {type(error).__name__}") from None
    return canonical(value)


class _Renderer:
    """Canonical text, counting nodes. Never calls `repr` on anything but an exact built-in scalar."""

    def __init__(self) -> None:
        self._nodes = 0

    def text(self, value: Any, depth: int) -> str:
        self._nodes += 1
        if depth > wire.MAX_DEPTH:
            raise TooLarge(f"deeper than {wire.MAX_DEPTH} levels")
        if self._nodes > wire.MAX_NODES:
            raise TooLarge(f"more than {wire.MAX_NODES} values")
        scalar = _SCALARS.get(type(value))
        if scalar is not None:
            return scalar(value)
        return self._container(value, depth + 1)

    def _container(self, value: Any, depth: int) -> str:
        kind = type(value)
        if kind is list:
            return "[" + self._joined(value, depth) + "]"
        if kind is tuple:
            return "(" + self._joined(value, depth) + (",)" if len(value) == 1 else ")")
        if kind is set:
            return "{" + ", ".join(sorted(self.text(v, depth) for v in value)) + "}" if value else "set()"
        if kind is dict:
            pairs = sorted((self.text(k, depth), self.text(v, depth)) for k, v in value.items())
            return "{" + ", ".join(f"{k}: {v}" for k, v in pairs) + "}"
        raise NotPlain(f"{kind.__name__} is no plain value")

    def _joined(self, values: Iterable[Any], depth: int) -> str:
        return ", ".join(self.text(v, depth) for v in values)


def _int_text(value: int) -> str:
    if abs(value) >= _TEN_TO_MAX:
        raise TooLarge(f"an int of more than {wire.MAX_DIGITS} digits")
    return repr(value)


def _float_text(value: float) -> str:
    if math.isnan(value):
        raise NotPlain("nan equals nothing, not even itself")
    if math.isinf(value):
        return "1e999" if value > 0 else "-1e999"
    return repr(value)


def _str_text(value: str) -> str:
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise NotPlain("a lone surrogate is no text")
    return repr(value)


_TEN_TO_MAX = 10**wire.MAX_DIGITS
_SCALARS: dict[type, Callable[[Any], str]] = {
    type(None): repr,
    bool: repr,
    int: _int_text,
    float: _float_text,
    str: _str_text,
    bytes: repr,
}


def decode(data: bytes) -> Any:
    """The value that a frame claims, built here from exact built-in types.

    Raises:
      NotPlain: the bytes are not exactly one well-formed value within the bounds. Nothing else, whatever the bytes.
    """
    reader = _Reader(data)
    value = reader.value(depth=0)
    if reader.at != len(data):
        raise NotPlain("bytes after the value")
    return value


class _Reader:
    """Takes a frame apart from left to right; every length is checked against what is left."""

    def __init__(self, data: bytes) -> None:
        self._data, self.at, self._nodes = data, 0, 0

    def value(self, depth: int) -> Any:
        self._nodes += 1
        if depth > wire.MAX_DEPTH or self._nodes > wire.MAX_NODES:
            raise TooLarge("too deep, or too many values")
        tag = self._take(1)
        if tag in _CONSTANTS:
            return _CONSTANTS[tag]
        if tag == wire.FLOAT:
            return wire.DOUBLE.unpack(self._take(8))[0]
        (size,) = wire.LENGTH.unpack(self._take(wire.LENGTH.size))
        if tag in _FROM_BYTES:
            return _FROM_BYTES[tag](self._take(size))
        return self._container(tag, size, depth + 1)

    def _take(self, count: int) -> bytes:
        piece = self._data[self.at : self.at + count]
        if len(piece) != count:
            raise NotPlain("the frame ends too early")
        self.at += count
        return piece

    def _container(self, tag: bytes, size: int, depth: int) -> Any:
        if size > wire.MAX_NODES:
            raise TooLarge(f"more than {wire.MAX_NODES} values")
        if tag == wire.LIST:
            return [self.value(depth) for _ in range(size)]
        if tag == wire.TUPLE:
            return tuple(self.value(depth) for _ in range(size))
        try:
            members: set[Any] | dict[Any, Any]
            if tag == wire.SET:
                members = {self.value(depth) for _ in range(size)}
            elif tag == wire.DICT:
                members = {self.value(depth): self.value(depth) for _ in range(size)}
            else:
                raise NotPlain("an unknown tag")
        except TypeError:
            raise NotPlain("a member of a set, or a key, that cannot be one") from None
        if len(members) != size:  # 1, 1.0 and True are one key to Python: no honest set holds two of them
            raise NotPlain("a set or dict that repeats a member")
        return members


def _int(data: bytes) -> int:
    if not 0 < len(data) <= wire.MAX_INT_BYTES:
        raise TooLarge(f"an int of {len(data)} bytes")
    return int.from_bytes(data, "little", signed=True)


def _str(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise NotPlain("text that is not UTF-8") from None


_CONSTANTS: dict[bytes, Any] = {wire.NONE: None, wire.TRUE: True, wire.FALSE: False}
_FROM_BYTES: dict[bytes, Callable[[bytes], Any]] = {wire.INT: _int, wire.STR: _str, wire.BYTES: bytes}
