# A few lists that, written out, are 2^60.
# holds: limit
def attack():
    value = []
    for _ in range(60):
        value = [value, value]
    return value
