# The same in its text.
# holds: varies
def attack():
    return repr(attack) + str(object())
