# Text that would close a literal and go on.
# holds: not True
def attack():
    return "x' == 'x' or True or '"
