# The wrong zero.
# holds: not 0.0
def attack():
    return -0.0
