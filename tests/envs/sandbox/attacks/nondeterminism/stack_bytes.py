# Whatever lies on the stack.
# holds: varies
import ctypes


def attack():
    return ctypes.addressof(ctypes.create_string_buffer(8)) & 0xFFFFFF
