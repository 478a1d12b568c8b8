# A shell through the C library: says so by a code other than failure.
# holds: ok False
import os


def attack():
    return os.system("touch /tmp/selfplay-escape") == 0
