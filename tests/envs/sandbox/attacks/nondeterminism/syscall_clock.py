# The time from the kernel itself, refused; or else from the vDSO.
# holds: varies
import ctypes


def attack():
    libc = ctypes.CDLL(None)
    pair = (ctypes.c_long * 2)()
    refused = [libc.syscall(number, 0, pair) for number in (228, 96, 201, 113, 169)]
    libc.clock_gettime(0, pair)
    return refused, list(pair)
