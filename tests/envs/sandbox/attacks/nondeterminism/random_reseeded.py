# Seeded anew by whatever it finds.
# holds: varies
import random


def attack():
    return (random.seed(), random.random())
