# A dict that answers any key.
# holds: not {'a': 1}
class Dict(dict):
    def items(self):
        return [("a", 1)]

    def __missing__(self, key):
        return 1


def attack():
    return Dict()
