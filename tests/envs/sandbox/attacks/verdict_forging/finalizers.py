# Code after the call: atexit, finalizers, deletion.
# holds: not True
import atexit
import os
import weakref


class Late:
    def __del__(self):
        os.write(4, b"VT")


KEPT = Late()


def attack():
    atexit.register(os.write, 4, b"VT")
    weakref.finalize(KEPT, os.write, 4, b"VT")
    return Late() is None
