# An exception whose message is never done.
# holds: timeout
class Slow(Exception):
    def __str__(self):
        while True:
            pass


def attack():
    raise Slow
