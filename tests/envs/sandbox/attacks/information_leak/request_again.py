# The request once more, and what was written after it: only this very program.
# holds: ok b''
import os


def attack():
    return os.read(3, 1 << 20)
