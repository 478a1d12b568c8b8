# A float where an int is wanted.
# holds: not 1
def attack():
    return 1.0
