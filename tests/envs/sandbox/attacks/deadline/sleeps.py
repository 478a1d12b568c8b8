# A long sleep.
# holds: timeout
import time


def attack():
    while True:
        time.sleep(1000)
