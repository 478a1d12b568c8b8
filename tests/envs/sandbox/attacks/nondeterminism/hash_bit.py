# One bit of a text's hash.
# holds: varies
def attack():
    return hash("a text") & 1
