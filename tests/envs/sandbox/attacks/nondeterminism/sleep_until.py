# The date by a sleep that ends at once if it is over: refused, by any clock but that of the uptime.
# holds: ok [-1, -1, -1]
import ctypes


def attack():
    libc = ctypes.CDLL(None)
    long_ago = (ctypes.c_long * 2)(1, 0)
    return [libc.syscall(230, clock, 1, long_ago, None) for clock in (0, 7, 11)]
