# One bit of it.
# holds: varies
import random


def attack():
    return random.getrandbits(1)
