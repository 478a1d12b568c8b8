# Bytes without end where the value goes.
# holds: timeout
import os


def attack():
    while True:
        os.write(4, b"V" * 65536)
