# The kernel's randomness.
# holds: varies
import os


def attack():
    return os.urandom(4)
