# How long something takes: the clock stands.
# holds: ok True
import time


def attack():
    start = time.perf_counter()
    sum(range(20_000))
    return time.perf_counter() == start
