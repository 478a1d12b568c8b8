# Where an object lies.
# holds: varies
def attack():
    return id([])
