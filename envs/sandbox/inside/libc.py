"""The C library and raw system calls, as the cage needs them: every failure is an OSError."""

from __future__ import annotations

import ctypes
import os
import platform

MACHINE = platform.machine()
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.getauxval.restype = ctypes.c_ulong
_HOLDING = ctypes.PyDLL(None, use_errno=True)  # keeps the interpreter's lock during a call
_LOOKED_UP = (_HOLDING.fork, _LIBC.mprotect, _LIBC.prctl)  # here once, and not again in every child

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP = 1, 4, 22, 24
PR_SET_TSC, PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS = 26, 38, 39
"""From linux/prctl.h."""


def fork() -> int:
    """fork(2) without what `os.fork` has modules do in the child (new locks for threads, a new seed for `random`).

    That touches half as many pages as a whole run does, and each is copied. For a process of one thread only.
    """
    pid: int = _HOLDING.fork()
    if pid == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"fork: {os.strerror(number)}")
    return pid


def call(name: str, *args: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """One function of the C library that returns -1 on failure; ints go as longs."""
    ctypes.set_errno(0)
    result: int = getattr(_LIBC, name)(*(ctypes.c_long(a) if isinstance(a, int) else a for a in args))
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def prctl(option: int, *args: int) -> None:
    call("prctl", option, *(args + (0,) * (4 - len(args))))


def syscall(number: int, *args: int | bytes | None) -> int:
    return call("syscall", number, *args)


def getauxval(key: int) -> int:
    """An entry of the auxiliary vector that the kernel gave this process; 0 = none."""
    value: int = _LIBC.getauxval(ctypes.c_ulong(key))
    return value


def map_page(size: int) -> int:
    """Address of fresh private memory, readable and writable."""
    read_write, private_anonymous = 3, 0x22
    address: int | None = _LIBC.mmap(None, ctypes.c_size_t(size), read_write, private_anonymous, -1, ctypes.c_long(0))
    if address is None or address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
    return address


def protect(address: int, size: int, protection: int) -> None:
    """mprotect; protection is the sum of read 1, write 2, execute 4."""
    call("mprotect", address, size, protection)
