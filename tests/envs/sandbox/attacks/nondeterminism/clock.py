# The time of day.
# holds: varies
import time


def attack():
    return time.time()
