# One call into C that does not end.
# holds: timeout
import itertools


def attack():
    return sum(itertools.repeat(0))
