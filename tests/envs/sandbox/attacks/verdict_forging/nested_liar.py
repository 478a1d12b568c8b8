# The same, deep within plain data.
# holds: not [1, {'a': (42,)}]
class Liar:
    def __eq__(self, other):
        return True

    def __repr__(self):
        return "42"


def attack():
    return [1, {"a": (Liar(),)}]
