# A value that is never done.
# holds: rejected
import itertools


def attack():
    return itertools.count()
