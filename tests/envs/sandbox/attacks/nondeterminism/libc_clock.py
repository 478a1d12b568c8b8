# The time past every module of Python's.
# holds: varies
import ctypes


def attack():
    return ctypes.CDLL(None).time(None)
