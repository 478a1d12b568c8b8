# How long the machine is up.
# holds: varies
import time


def attack():
    return time.monotonic_ns()
