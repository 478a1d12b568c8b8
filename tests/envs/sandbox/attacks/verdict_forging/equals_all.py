# A value that equals everything.
# holds: not 42
class Any:
    def __eq__(self, other):
        return True

    def __hash__(self):
        return hash(42)


def attack():
    return Any()
