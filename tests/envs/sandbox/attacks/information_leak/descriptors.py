# Descriptors that were left open: three times /dev/null and the request can be read, no other.
# holds: ok [0, 1, 2, 3]
import os


def attack():
    readable = []
    for fd in range(2048):
        try:
            os.read(fd, 0)
        except OSError:
            continue
        readable.append(fd)
    return readable
