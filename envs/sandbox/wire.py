"""What crosses between the trainer and a worker: two fixed records, one request, one frame, and their bounds.

Read by both sides, so it imports nothing of ours. The zygote (the worker's long-lived process) sees the records only;
program, call and frame pass between the trainer and one run's child over descriptors made for that run.
"""

from __future__ import annotations

import struct

ORDER = struct.Struct("<dd")
"""Trainer to zygote, with the descriptors of request and frame: timeout_s, memory_bytes."""
REPORT = struct.Struct("<i?dq")
"""Zygote to trainer: wait status as the kernel gave it, whether the deadline passed, wall_s, peak_bytes."""
LENGTH = struct.Struct("<I")

MAX_SOURCE = 100_000
"""Bytes of a program, and of a call."""
MAX_FRAME = 65_536
"""Bytes of an encoded value."""
MAX_NODES = 20_000
"""Values within a value, all levels together."""
MAX_DEPTH = 100
MAX_DIGITS = 4_000
"""Decimal digits of an int; below CPython's own bound on int <-> text, 4,300."""
MAX_INT_BYTES = 1_662
"""Bytes that an int of MAX_DIGITS digits needs: 4,000 x log2(10) / 8, and its sign."""
MAX_REASON = 200
"""Characters of what is said of a run that gave no value."""

VALUE, ERROR, LIMIT, REJECTED = b"V", b"E", b"L", b"R"
"""First byte of a frame. All but VALUE are followed by a reason, in UTF-8."""
NONE, TRUE, FALSE, INT, FLOAT, STR, BYTES = b"N", b"T", b"F", b"i", b"f", b"s", b"b"
LIST, TUPLE, SET, DICT = b"l", b"t", b"e", b"d"
"""First byte of a value. INT, STR and BYTES: a length and that many bytes; FLOAT: 8 bytes; LIST, TUPLE and SET: a count
and that many values; DICT: a count and twice as many. An int is little-endian and signed. So a list never meets a
tuple, a bool never an int, and no data looks like a tag."""
DOUBLE = struct.Struct("<d")


def request(program: bytes, call: bytes) -> bytes:
    """What a child is asked: a program, and the call whose value is wanted."""
    return LENGTH.pack(len(program)) + program + call
