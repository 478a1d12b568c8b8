# A frozenset where a set is wanted.
# holds: not {1}
def attack():
    return frozenset({1})
