# An object that says that it is an int.
# holds: not 42
class Liar:
    __class__ = int

    def bit_length(self):
        return 6

    def to_bytes(self, *args, **options):
        return b"\x2a"


def attack():
    return Liar()
