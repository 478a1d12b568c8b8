# The same as text.
# holds: varies
import time


def attack():
    return time.ctime() + time.strftime("%c")
