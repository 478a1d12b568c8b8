"""The equality policy by hand, and a reader of frames that no bytes surprise."""

from __future__ import annotations

import ast
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.sandbox import wire
from envs.sandbox.inside import encode
from envs.sandbox.values import MAX_TEXT, NotPlain, TooLarge, canonical, canonical_literal, decode

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.binary(max_size=5)
)
keys = scalars | st.tuples(scalars, scalars)
plain = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.sets(keys, max_size=3)
        | st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=5,
)


@given(plain)
def test_a_value_survives_the_wire_and_its_own_text(value: Any) -> None:
    text = canonical(decode(encode.encode(value)))
    assert text == canonical(value) == canonical_literal(text) == canonical(ast.literal_eval(text))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_refused(data: bytes) -> None:
    try:
        canonical(decode(data))
    except NotPlain:
        pass


@given(plain, st.data())
def test_a_damaged_frame_is_a_value_or_refused(value: Any, data: st.DataObject) -> None:
    frame = bytearray(encode.encode(value))
    frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    try:
        canonical(decode(bytes(frame)))
    except NotPlain:
        pass


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1", "True"),
        ("1", "1.0"),
        ("0.0", "-0.0"),
        ("0", "False"),
        ("[1]", "(1,)"),
        ("'a'", "b'a'"),
        ("{1}", "[1]"),
        ("{1: 2}", "{1: 2.0}"),
        ("{True: 2}", "{1: 2}"),
        ("set()", "{}"),
        ("0.1", "0.10000000000000002"),
        ("'1'", "1"),
        ("None", "'None'"),
        ("1e999", "-1e999"),
    ],
)
def test_unequal(one: str, other: str) -> None:
    assert canonical_literal(one) != canonical_literal(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("{3, 1, 2}", "{2,3,1}"),
        ("{'b': 1, 'a': {2, 1}}", "{'a': {1, 2}, 'b': 1}"),
        ("0x10", "16"),
        ("'a' 'b'", '"ab"'),
        ("1e400", "1e999"),
        ("-0", "0"),
        ("(1, 2,)", " (1,2)\n"),
        ("1_000.0", "1e3"),
    ],
)
def test_equal(one: str, other: str) -> None:
    assert canonical_literal(one) == canonical_literal(other)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nan",
        "f(1)",
        "1 +",
        "1j",
        "...",
        "frozenset()",
        "{[]}",
        "x" * 70_000,
        "'\\ud800'",
        "\ud800",
        "\0",
        "-" * 60_000 + "1",
        "(" * 60_000,
        "1+" * 30_000 + "1",
        "9" * 4_001,
        "[" * 102 + "]" * 102,
        "__import__('os')",
    ],
)
def test_what_is_no_value(text: str) -> None:
    with pytest.raises(NotPlain):
        canonical_literal(text)


def test_bounds() -> None:
    deep: list[Any] = []
    for _ in range(wire.MAX_DEPTH):
        deep = [deep]
    assert canonical_literal(canonical(deep)) == canonical(deep)
    most = 10**wire.MAX_DIGITS - 1
    assert canonical(decode(encode.encode(-most))) == str(-most)
    for value in ([deep], most + 1, [None] * wire.MAX_NODES, "x" * MAX_TEXT):
        with pytest.raises(TooLarge):
            canonical(value)
    for value in ([deep], 10**4_003, [None] * wire.MAX_NODES, "x" * (wire.MAX_FRAME + 1)):
        with pytest.raises(encode.Limit):
            encode.encode(value)


@pytest.mark.parametrize(
    "value", [math.nan, 1j, object(), frozenset(), type, iter(()), bytearray(), range(3), "\ud800"]
)
def test_what_is_not_plain(value: object) -> None:
    with pytest.raises(NotPlain):
        canonical([value])
    with pytest.raises(encode.Rejected):
        encode.encode({"x": [value]})


def test_no_set_holds_one_and_true() -> None:
    one, true = wire.INT + wire.LENGTH.pack(1) + b"\1", wire.TRUE
    with pytest.raises(NotPlain):
        decode(wire.SET + wire.LENGTH.pack(2) + one + true)
    with pytest.raises(NotPlain):
        decode(wire.DICT + wire.LENGTH.pack(2) + one + true + true + true)
