"""The last wall, on every run's child: an allow-list of system calls, enforced by the kernel.

Whatever code runs in the child, machine code included, it can compute, take memory, sleep, and read and write the
descriptors that it was given. No path, process, signal, socket, clock, entropy or limit can be named at all.
Source: seccomp(2), linux/filter.h, linux/audit.h; numbers from the kernel's syscall tables.
"""

from __future__ import annotations

import ctypes
import errno
import struct

from envs.sandbox.inside import libc

ALLOWED = {
    # x86_64, aarch64
    "read": (0, 63),
    "write": (1, 64),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "brk": (12, 214),
    "futex": (202, 98),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "sched_yield": (24, 124),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
SLEEP, CLOCK_MONOTONIC = (230, 115), 1
"""clock_nanosleep, allowed by this clock only: a sleep until a date would tell what date it is."""
NEVER_EXECUTABLE = {"mmap": (9, 222), "mprotect": (10, 226)}
"""Allowed unless they ask for executable memory: no new machine code enters."""

ARCHES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Machine -> (column above, AUDIT_ARCH)."""
X32_BIT = 0x40000000
"""Set in the numbers of x86's third ABI, which would pass by another table."""

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCH_AT, _FIRST_ARGUMENT_AT, _THIRD_ARGUMENT_AT = 0, 4, 16, 32
_ALLOW, _DENY, _KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
_PROT_EXEC = 4


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def assemble(machine: str) -> bytes:
    """The filter as BPF instructions (code, jump if true, jump if false, operand), 8 bytes each."""
    column, arch = ARCHES[machine]

    def op(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("=HBBI", code, if_true, if_false, operand)

    code = [op(_LOAD, _ARCH_AT), op(_EQUAL, arch, 1, 0), op(_RETURN, _KILL), op(_LOAD, _NUMBER_AT)]
    code += [op(_AT_LEAST, X32_BIT, 0, 1), op(_RETURN, _KILL)]
    for numbers in ALLOWED.values():
        code += [op(_EQUAL, numbers[column], 0, 1), op(_RETURN, _ALLOW)]
    for numbers in NEVER_EXECUTABLE.values():
        code += [op(_EQUAL, numbers[column], 0, 4), op(_LOAD, _THIRD_ARGUMENT_AT)]
        code += [op(_ANY_BIT, _PROT_EXEC, 0, 1), op(_RETURN, _DENY), op(_RETURN, _ALLOW)]
    code += [op(_EQUAL, SLEEP[column], 0, 4), op(_LOAD, _FIRST_ARGUMENT_AT)]
    code += [op(_EQUAL, CLOCK_MONOTONIC, 1, 0), op(_RETURN, _DENY), op(_RETURN, _ALLOW)]
    return b"".join([*code, op(_RETURN, _DENY)])


class Filter:
    """The assembled filter, ready to be laid on the calling process for good."""

    def __init__(self, machine: str = libc.MACHINE) -> None:
        code = assemble(machine)
        self._code = ctypes.create_string_buffer(code, len(code))
        self._program = _Program(len(code) // 8, ctypes.addressof(self._code))

    def install(self) -> None:
        """Needs no privilege but `no_new_privs`; nothing takes it off again."""
        mode_filter = 2
        libc.prctl(libc.PR_SET_SECCOMP, mode_filter, ctypes.addressof(self._program))
