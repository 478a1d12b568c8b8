# A second process, by every call that makes one.
# holds: ok []
import os


def attack():
    through = []
    for name in ("fork", "forkpty"):
        try:
            child = getattr(os, name)()
        except OSError:
            continue
        if child in (0, (0, -1)):
            os._exit(0)
        through.append(name)
    return through
