# The generator as it stands.
# holds: varies
import random


def attack():
    return random.random()
