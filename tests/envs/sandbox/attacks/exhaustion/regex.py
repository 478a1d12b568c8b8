# A pattern that backtracks for ever, within one call.
# holds: timeout
import re


def attack():
    return re.match("(a|a)*b", "a" * 64)
