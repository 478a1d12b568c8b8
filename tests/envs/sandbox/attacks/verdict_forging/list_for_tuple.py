# A list where a tuple is wanted.
# holds: not (1, 2)
def attack():
    return [1, 2]
