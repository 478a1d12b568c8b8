# A list that fills all memory.
# holds: limit
def attack():
    return len([0] * 10**9)
