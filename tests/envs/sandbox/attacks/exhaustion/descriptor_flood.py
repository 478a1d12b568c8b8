# Descriptors without end.
# holds: ok 0
import os


def attack():
    made = 0
    for _ in range(1000):
        for make in (os.pipe, lambda: os.dup(1), lambda: os.dup2(1, 7), lambda: os.memfd_create("x")):
            try:
                make()
                made += 1
            except OSError:
                pass
    return made
