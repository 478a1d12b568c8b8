# The frame's descriptor closed, as if it were over.
# holds: timeout
import os


def attack():
    for fd in range(64):
        try:
            os.close(fd)
        except OSError:
            pass
    while True:
        pass
