"""A value -> the bytes of a frame. Runs in the child, beside the program, so nothing it does is trusted.

Exact built-in types only, looked up by identity: no method of the program's is ever called. Its bounds keep honest
programs within what the trainer accepts; that they can be patched away from in here gains nothing, as the trainer
checks every one again (values.py).
"""

from __future__ import annotations

from typing import Any

from envs.sandbox import wire

_type, _len = type, len  # so that a program with names of its own for them is still read right


class Rejected(Exception):
    """The value is not plain data."""


class Limit(Exception):
    """The value is plain, and too large."""


def encode(value: Any) -> bytes:
    parts: list[bytes] = []
    _write(value, parts.append, [wire.MAX_NODES, wire.MAX_FRAME], 0)
    return b"".join(parts)


def _write(value: Any, put: Any, left: list[int], depth: int) -> None:
    """Append a value's bytes; `left` holds the values and bytes that may still come."""
    left[0] -= 1
    if left[0] < 0 or depth > wire.MAX_DEPTH:
        raise Limit("more than 20,000 values or 100 levels")
    kind = _type(value)
    if kind in _CONTAINERS:
        put(_CONTAINERS[kind] + wire.LENGTH.pack(_len(value)))
        left[1] -= 5
        for member in value.items() if kind is dict else value:
            for part in member if kind is dict else (member,):
                _write(part, put, left, depth + 1)
    else:
        piece = _scalar(kind, value)
        left[1] -= len(piece)
        put(piece)
    if left[1] < 0:
        raise Limit("more than 64 kB")


_CONTAINERS: dict[type, bytes] = {list: wire.LIST, tuple: wire.TUPLE, set: wire.SET, dict: wire.DICT}


def _scalar(kind: type, value: Any) -> Any:
    if value is None:
        return wire.NONE
    if kind is bool:
        return wire.TRUE if value else wire.FALSE
    if kind is int:
        size = value.bit_length() // 8 + 1
        if size > wire.MAX_INT_BYTES:
            raise Limit("an int of more than 4,000 digits")
        return wire.INT + wire.LENGTH.pack(size) + value.to_bytes(size, "little", signed=True)
    if kind is float:
        if value != value:
            raise Rejected("nan equals nothing, not even itself")
        return wire.FLOAT + wire.DOUBLE.pack(value)
    if kind is str or kind is bytes:
        if _len(value) > wire.MAX_FRAME:
            raise Limit("more than 64 kB")
        return _text(value) if kind is str else wire.BYTES + wire.LENGTH.pack(len(value)) + value
    raise Rejected(f"{kind.__name__} is no plain value")


def _text(value: str) -> bytes:
    try:
        data = value.encode("utf-8")
    except UnicodeEncodeError:
        raise Rejected("a lone surrogate is no text") from None
    return wire.STR + wire.LENGTH.pack(len(data)) + data
