# A frame with more after its end.
# holds: not True
import os


def attack():
    os.write(4, b"VTT")
    os._exit(0)
