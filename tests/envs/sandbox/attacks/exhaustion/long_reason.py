# An exception whose message is a hundred million characters, or never ends.
# holds: error|timeout
class Loud(Exception):
    def __str__(self):
        return "x" * 10**8


def attack():
    raise Loud
