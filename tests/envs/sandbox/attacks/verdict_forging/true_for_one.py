# A bool where an int is wanted.
# holds: not 1
def attack():
    return True
