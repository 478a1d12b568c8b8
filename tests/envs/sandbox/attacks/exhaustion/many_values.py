# A value of a million values.
# holds: limit
def attack():
    return [None] * 10**6
