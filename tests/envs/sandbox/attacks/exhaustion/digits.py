# Decimal text of an int beyond CPython's bound.
# holds: timeout|error|limit
import sys


def attack():
    sys.set_int_max_str_digits(0)
    return len(str(7**8_000_000))
