# The interpreter itself falls over.
# holds: error
import ctypes


def attack():
    return ctypes.string_at(1)
