# An int of a hundred thousand digits as the value.
# holds: limit
def attack():
    return 10**100_000
