# An object whose end never comes, left for the interpreter's end.
# holds: ok 7
class Slow:
    def __del__(self):
        while True:
            pass


KEPT = Slow()


def attack():
    return 7
