# The same through datetime, whose clock is read in C.
# holds: varies
import datetime


def attack():
    return datetime.date.today().isoformat()
