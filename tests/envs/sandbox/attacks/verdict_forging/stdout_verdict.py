# The right words on stdout and stderr.
# holds: not 42
import sys


def attack():
    for stream in (sys.stdout, sys.stderr, sys.__stdout__):
        print("42\nok\nTrue\nPASSED", file=stream, flush=True)
    return 41
