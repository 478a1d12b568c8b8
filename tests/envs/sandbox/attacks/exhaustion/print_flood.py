# Text without end on stdout.
# holds: timeout
import sys


def attack():
    while True:
        sys.stdout.write("x" * 65536)
