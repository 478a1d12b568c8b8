# The same for writing: the same and the frame; the trainer's socket is not among them.
# holds: ok [0, 1, 2, 3, 4]
import os


def attack():
    writable = []
    for fd in range(2048):
        try:
            os.write(fd, b"")
        except OSError:
            continue
        writable.append(fd)
    return writable
