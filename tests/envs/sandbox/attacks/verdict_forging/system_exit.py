# SystemExit with success.
# holds: not 0
import sys


def attack():
    sys.exit(0)
