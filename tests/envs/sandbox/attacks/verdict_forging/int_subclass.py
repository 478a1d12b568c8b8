# An int that is 41 and says 42.
# holds: not 42
class Int(int):
    def __eq__(self, other):
        return True

    def __hash__(self):
        return 42

    def __repr__(self):
        return "42"

    __str__ = __index__ = __int__ = __repr__


def attack():
    return Int(41)
