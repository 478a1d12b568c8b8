# The order of a set of classes.
# holds: varies
def attack():
    return [c.__name__ for c in {type(n, (), {}) for n in "abcdefgh"}]
