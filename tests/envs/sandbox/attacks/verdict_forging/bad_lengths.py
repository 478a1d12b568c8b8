# A frame whose lengths do not fit.
# holds: not []
import os


def attack():
    os.write(4, b"Vl\xff\xff\xff\xff")
    os._exit(0)
