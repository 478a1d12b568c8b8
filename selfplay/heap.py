"""What this process holds of the system's memory without using it."""

from __future__ import annotations

import ctypes
import sys


def trim() -> None:
    """Give free pages back to the system, where the C library can (glibc).

    malloc keeps what compilers and the CPU's devices have freed, .7 GB with a model of 270 million parameters; what
    comes next often fits nowhere into it.
    """
    if sys.platform == "linux" and (give_back := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        give_back(ctypes.c_size_t(0))
