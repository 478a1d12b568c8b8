"""One run: read the request, lay on the last walls, execute, write one frame, exit.

Everything before `_answer` is ours; from there on the process belongs to the program, and what it writes is only a
claim about a value.
"""

from __future__ import annotations

import builtins
import os
import signal
import sys
from types import ModuleType

from envs.sandbox import wire
from envs.sandbox.inside import cage, encode
from envs.sandbox.inside.clock import StoppedClock
from envs.sandbox.inside.seccomp import Filter

_REQUEST, _FRAME = 3, 4
"""The child's only descriptors besides 0 to 2, which are /dev/null."""


def run(
    request: int,
    frame: int,
    timeout_s: float,
    memory_bytes: int,
    filter: Filter | None,
    clock: StoppedClock | None,
) -> None:
    """The child's whole life; never returns.

    Args:
      request: descriptor to read the request from.
      frame: descriptor to write the frame to.
      filter: the system call filter, or None in the unsafe tier.
      clock: stopped first, or None where it cannot be.
    """
    code = 1
    try:
        _arrange(request, frame)
        cage.die_with_parent()
        if filter is None:
            os.setsid()
        cage.limit_child(timeout_s, memory_bytes)
        if clock is not None:
            clock.stop()
        if filter is not None:
            filter.install()
        program, call = _read_request()
        _write_all(_answer(program, call)[: 1 + wire.MAX_FRAME])
        code = 0
    finally:
        os._exit(code)


def _arrange(request: int, frame: int) -> None:
    """Request and frame on 3 and 4, all else closed: the trainer's socket above all."""
    signal.set_wakeup_fd(-1)
    request, frame = os.dup2(request, 100), os.dup2(frame, 101)
    os.dup2(request, _REQUEST)
    os.dup2(frame, _FRAME)
    os.closerange(_FRAME + 1, 4096)


def _read_request() -> tuple[str, str]:
    pieces = []
    while piece := os.read(_REQUEST, 1 << 20):
        pieces.append(piece)
    data = b"".join(pieces)
    (size,) = wire.LENGTH.unpack_from(data)
    text = data[wire.LENGTH.size :]
    return text[:size].decode("utf-8"), text[size:].decode("utf-8")


def _write_all(frame: bytes) -> None:
    while frame:
        frame = frame[os.write(_FRAME, frame) :]


def _answer(program: str, call: str) -> bytes:
    """The frame: what the call gives, or why nothing. The memory of a failed program is let go before it is told."""
    try:
        return wire.VALUE + encode.encode(_execute(program, call))
    except encode.Rejected as error:
        return wire.REJECTED + str(error).encode()
    except encode.Limit as error:
        return wire.LIMIT + str(error).encode()
    except MemoryError:
        sys.modules.pop(_NAME, None)
        return _OUT_OF_MEMORY
    except BaseException as error:  # noqa: B036 (SystemExit and KeyboardInterrupt are a program's errors too)
        return wire.ERROR + _reason(error)


_OUT_OF_MEMORY = wire.LIMIT + b"out of memory"  # made beforehand: there may be no memory to make it then
_NAME = "program"
"""The name of the module that a program becomes."""


def _execute(program: str, call: str) -> object:
    module = ModuleType(_NAME)
    module.__dict__["__builtins__"] = builtins
    sys.modules[_NAME] = module
    exec(compile(program, "<program>", "exec"), module.__dict__)
    return eval(compile(call.strip(), "<call>", "eval"), module.__dict__)


def _reason(error: BaseException) -> bytes:
    """Type and message of an exception, which may be the program's own and misbehave."""
    try:
        return f"{type(error).__name__}: {error}"[: wire.MAX_REASON].encode("ascii", "backslashreplace")
    except BaseException:  # noqa: B036
        return b"an exception that cannot be told"


def warm_up() -> None:
    """Take the paths that every run takes once, so that children find them loaded and allowed."""
    for call in ("f([1, 2.5, 'x', b'y', None, True, {3: (4,)}, {5}])", "f(", "f(1, 2)", "f(f)", "10 ** 5000"):
        _answer("import math\nimport re\ndef f(x):\n    print(x)\n    return x\n", call)
    sys.modules.pop(_NAME, None)
