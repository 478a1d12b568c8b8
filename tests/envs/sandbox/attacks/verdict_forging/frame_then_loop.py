# A good frame from a process that does not end.
# holds: not True
import os


def attack():
    os.write(4, b"VT")
    while True:
        pass
