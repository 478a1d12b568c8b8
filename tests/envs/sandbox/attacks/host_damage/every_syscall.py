# Every system call by number, but those known to be allowed: all refuse. 335 and 336 (uprobes) only crash.
# holds: ok []
import ctypes
import sys

ALLOWED = {
    "x86_64-linux-gnu": {0, 1, 9, 10, 11, 12, 13, 14, 15, 24, 25, 28, 60, 131, 202, 230, 231},
    "aarch64-linux-gnu": {63, 64, 93, 94, 98, 115, 124, 132, 134, 135, 139, 214, 215, 216, 222, 226, 233},
}


def attack():
    libc = ctypes.CDLL(None, use_errno=True)
    zeros = [ctypes.c_long(0)] * 6
    through = []
    for number in set(range(1200)) - {335, 336} - ALLOWED[sys.implementation._multiarch]:
        ctypes.set_errno(0)
        if libc.syscall(ctypes.c_long(number), *zeros) != -1 or ctypes.get_errno() != 1:
            through.append(number)
    return through
