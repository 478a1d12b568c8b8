"""Stops the clock in a child, at a date of the worker's own.

Linux answers "what time is it" from the vDSO, a page of code in every process, without a system call that seccomp
could see. So the child's copy of that code is overwritten with jumps to a few instructions that return constants.
Dates then differ between workers and agree within one: a program that looks at the clock, slow ones like the year
included, is found out by running it in two workers. x86-64 only; elsewhere the clock goes on and is documented so.
Source: vdso(7); the symbols from arch/x86/entry/vdso/vdso.lds.S; Intel SDM volume 2 for the encodings.
"""

from __future__ import annotations

import ctypes
import random
import struct
import time

from envs.sandbox.inside import libc

_AT_SYSINFO_EHDR = 33
_PAGE = 4096
_READ_EXECUTE, _READ_WRITE = 5, 3
_TSC_FAULTS = 2
_YEAR_2001, _YEAR_2035 = 978_307_200, 2_051_222_400


def _load(value: int) -> bytes:
    return b"\x48\xb8" + struct.pack("<Q", value)  # mov rax, value


_TO_FIRST, _TO_SECOND, _RETURN_0 = b"\x48\x89\x06", b"\x48\x89\x46\x08", b"\x31\xc0\xc3"
"""mov [rsi], rax; mov [rsi + 8], rax; xor eax, eax and ret."""


def _clock_gettime(date_s: int, up_s: int, up_ns: int) -> bytes:
    """(clock, timespec *): time since start for clock 1, by which sleeps are reckoned; the date for all others."""
    date = _load(date_s) + _TO_FIRST + _load(0)
    up = _load(up_s) + _TO_FIRST + _load(up_ns)
    skip_up = b"\xeb" + bytes([len(up)])
    to_up = b"\x83\xff\x01\x74" + bytes([len(date) + len(skip_up)])  # cmp edi, 1; je
    return to_up + date + skip_up + up + _TO_SECOND + _RETURN_0


def _gettimeofday(date_s: int) -> bytes:
    """(timeval *, timezone *)."""
    return _load(date_s) + b"\x48\x89\x07" + _load(0) + b"\x48\x89\x47\x08" + _RETURN_0


def _time(date_s: int) -> bytes:
    """(time_t *), which may be null: test rdi, rdi; je over the store; ret."""
    return _load(date_s) + b"\x48\x85\xff\x74\x03" + b"\x48\x89\x07" + b"\xc3"


def _clock_getres() -> bytes:
    """(clock, timespec *), which may be null: a nanosecond."""
    store = _load(0) + _TO_FIRST + _load(1) + _TO_SECOND
    return b"\x48\x85\xf6\x74" + bytes([len(store)]) + store + _RETURN_0


def _read(format: str, at: int) -> tuple[int, ...]:
    return struct.unpack(format, ctypes.string_at(at, struct.calcsize(format)))


def read_vdso(base: int) -> tuple[int, dict[str, int]]:
    """Bytes that the vDSO takes, and the addresses of its functions, from its ELF headers in memory."""
    (sections_at,) = _read("<Q", base + 40)
    size, count = _read("<HH", base + 58)
    found: dict[str, int] = {}
    for i in range(count):
        header = _read("<IIQQQQIIQQ", base + sections_at + i * size)
        kind, offset, length, link = header[1], header[4], header[5], header[6]
        if kind != 11:  # SHT_DYNSYM
            continue
        names = _read("<IIQQQQIIQQ", base + sections_at + link * size)[4]
        for at in range(base + offset, base + offset + length, 24):
            name, _info, _other, _section, value, _size = _read("<IBBHQQ", at)
            found[ctypes.string_at(base + names + name).decode("ascii")] = base + value
    end = sections_at + size * count  # the section headers come last
    return (end + _PAGE - 1) // _PAGE * _PAGE, found


class StoppedClock:
    """A date drawn once a worker, and what it takes to stop a child's clock there."""

    def __init__(self) -> None:
        self._date_s = random.SystemRandom().randrange(_YEAR_2001, _YEAR_2035)
        self._base = libc.getauxval(_AT_SYSINFO_EHDR) if libc.MACHINE == "x86_64" else 0
        self._fixed = {
            "__vdso_gettimeofday": _gettimeofday(self._date_s),
            "__vdso_time": _time(self._date_s),
            "__vdso_clock_getres": _clock_getres(),
        }
        self._size, self._symbols = read_vdso(self._base) if self._base else (0, {})

    def stop(self) -> None:
        """For good, in this process: the vDSO's functions, and the processor's own counter."""
        if not self._symbols:
            return
        up_s, up_ns = divmod(time.monotonic_ns(), 10**9)
        codes = {"__vdso_clock_gettime": _clock_gettime(self._date_s, up_s, up_ns), **self._fixed}
        page = libc.map_page(_PAGE)
        places, at = {}, page
        for name, code in codes.items():
            ctypes.memmove(at, code, len(code))
            places[name], at = at, at + 128
        libc.protect(page, _PAGE, _READ_EXECUTE)
        self._redirect(places)
        libc.prctl(libc.PR_SET_TSC, _TSC_FAULTS)

    def _redirect(self, places: dict[str, int]) -> None:
        """Overwrite the head of each function with `mov rax, place; jmp rax`."""
        targets = {self._symbols[name]: place for name, place in places.items() if name in self._symbols}
        libc.protect(self._base, self._size, _READ_WRITE)  # the whole of it: the kernel splits no special mapping
        for target, place in targets.items():
            ctypes.memmove(target, _load(place) + b"\xff\xe0", 12)
        libc.protect(self._base, self._size, _READ_EXECUTE)
