# A class that passes for int where classes are compared.
# holds: not 42
class Meta(type):
    def __eq__(cls, other):
        return True

    def __hash__(cls):
        return hash(int)


class Liar(metaclass=Meta):
    def __repr__(self):
        return "42"


def attack():
    return Liar()
