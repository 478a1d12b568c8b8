# The sixteen random bytes that the kernel gives every program.
# holds: varies
import ctypes


def attack():
    libc = ctypes.CDLL(None)
    libc.getauxval.restype = ctypes.c_ulong
    return ctypes.string_at(libc.getauxval(25), 16)
