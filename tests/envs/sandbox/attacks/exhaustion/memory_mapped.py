# Memory by the kernel's own call, in large pieces.
# holds: ok True
import ctypes


def attack():
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_long
    pieces = [libc.mmap(None, ctypes.c_size_t(1 << 26), 3, flags, -1, 0) for flags in (0x22, 0x21) * 200]
    return sum(piece != -1 for piece in pieces) < 10
