# The hash of an object, made from its address.
# holds: varies
def attack():
    return hash(object())
