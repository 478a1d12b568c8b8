# A good frame from a process that ends badly.
# holds: not True
import ctypes
import os


def attack():
    os.write(4, b"VT")
    ctypes.string_at(0)
