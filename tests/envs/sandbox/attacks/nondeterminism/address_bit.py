# A few bits of it.
# holds: varies
def attack():
    return id([]) >> 14 & 255
