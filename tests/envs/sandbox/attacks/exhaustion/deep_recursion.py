# The stack of the C library, by a recursion without bound.
# holds: error|limit|timeout
import sys


def attack():
    sys.setrecursionlimit(10**9)

    class Deep:
        def __getattr__(self, name):
            return getattr(self, name + "x")

    return Deep().x
