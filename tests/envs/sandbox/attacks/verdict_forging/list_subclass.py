# A list that gives others what it does not hold.
# holds: not [1, 2]
class List(list):
    def __iter__(self):
        return iter([1, 2])

    def __len__(self):
        return 2


def attack():
    return List()
