# Grow the request, which is memory of the trainer's: sealed by a limit of no bytes.
# holds: ok False
import os


def attack():
    try:
        return os.write(3, b"x" * 4096) > 0
    except OSError:
        return False
