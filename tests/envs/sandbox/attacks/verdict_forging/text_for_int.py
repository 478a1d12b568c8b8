# Text where an int is wanted.
# holds: not 42
def attack():
    return "42"
