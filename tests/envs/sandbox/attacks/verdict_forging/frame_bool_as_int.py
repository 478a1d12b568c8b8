# A frame whose set holds True and 1 at once.
# holds: not {1}
import os


def attack():
    os.write(4, b"Ve\x02\x00\x00\x00Ti\x01\x00\x00\x00\x01")
    os._exit(0)
