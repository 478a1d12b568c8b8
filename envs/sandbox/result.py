"""What a run came to: the kernel's word on how it ended, then the frame, taken for a claim about a value."""

from __future__ import annotations

import os
import signal
from typing import Literal, get_args

import msgspec

from envs.sandbox import wire
from envs.sandbox.values import NotPlain, TooLarge, canonical, decode
from envs.sandbox.worker import Ended

RunStatus = Literal["ok", "error", "timeout", "limit", "rejected"]
RUN_STATUSES: tuple[RunStatus, ...] = get_args(RunStatus)


class Result(msgspec.Struct, frozen=True):
    """What a call gave."""

    status: RunStatus
    """ok: a plain value came back. error: the program raised, ended early or said nothing. timeout: it was stopped.
    limit: it met a bound of memory or size. rejected: the value is no plain data, or the text is no program."""
    text: str
    """The value as a Python literal in canonical form when ok; else a reason, which the program may have chosen."""
    wall_s: float = 0.0
    """From the child's fork to its end."""
    peak_bytes: int = 0
    """Largest resident size of the child, with the 15 to 20 MB of the interpreter that it starts from."""


def result_of(ended: Ended) -> Result:
    """Judge one run. Total: any bytes at all give a Result."""
    status, text = _judge(ended)
    return Result(status, text, ended.wall_s, ended.peak_bytes)


def _judge(ended: Ended) -> tuple[RunStatus, str]:
    if ended.late:
        return "timeout", "the time was up"
    if os.WIFSIGNALED(ended.wait_status):
        return _killed(os.WTERMSIG(ended.wait_status))
    if ended.wait_status != 0 or not ended.frame:
        return "error", "the program ended before its call did"
    kind, body = ended.frame[:1], ended.frame[1:]
    if kind == wire.VALUE:
        return _value(body)
    return _NO_VALUE.get(kind, "error"), _printable(body)


_NO_VALUE: dict[bytes, RunStatus] = {wire.ERROR: "error", wire.LIMIT: "limit", wire.REJECTED: "rejected"}


def _killed(number: int) -> tuple[RunStatus, str]:
    if number == signal.SIGXCPU:
        return "timeout", "the processor time was up"
    if number == signal.SIGKILL:
        return "limit", "the kernel ended it"
    return "error", f"ended by {signal.strsignal(number) or number}"


def _value(body: bytes) -> tuple[RunStatus, str]:
    if len(body) > wire.MAX_FRAME:
        return "limit", f"the value takes more than {wire.MAX_FRAME} bytes"
    try:
        return "ok", canonical(decode(body))
    except TooLarge as error:
        return "limit", str(error)
    except NotPlain as error:
        return "error", f"no value came back: {error}"


def _printable(body: bytes) -> str:
    """A reason as harmless text: printable ASCII, and not long."""
    text = body[: wire.MAX_REASON].decode("ascii", "replace")
    return "".join(c if " " <= c <= "~" else "?" for c in text)
