# A value of a hundred thousand levels.
# holds: limit
def attack():
    value = ()
    for _ in range(100_000):
        value = (value,)
    return value
