# A value of a hundred million characters.
# holds: limit
def attack():
    return "x" * 10**8
