# A deletion that does not end.
# holds: timeout
class Slow:
    def __del__(self):
        while True:
            pass


def attack():
    Slow()
    return 1
