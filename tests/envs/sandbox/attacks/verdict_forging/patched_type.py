# `type` says int of everything.
# holds: not 42
import builtins


class Liar:
    def __eq__(self, other):
        return True


def attack():
    builtins.type = lambda x: int
    return Liar()
