# A clock that hardly moves.
# holds: varies
import time


def attack():
    return time.gmtime().tm_year * 100 + time.gmtime().tm_mon
