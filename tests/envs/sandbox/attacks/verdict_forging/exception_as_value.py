# An exception that looks like a value.
# holds: not 42
class Value(BaseException):
    def __str__(self):
        return "VT42"

    __repr__ = __str__


def attack():
    raise Value
