# A frame of one's own ahead of the honest one.
# holds: not 42
import os


def attack():
    os.write(4, b"Vi\x01\x00\x00\x00\x2a")
    return 41
