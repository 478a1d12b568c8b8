# A good frame, and an exit code that is not 0.
# holds: not True
import os


def attack():
    os.write(4, b"VT")
    os._exit(3)
