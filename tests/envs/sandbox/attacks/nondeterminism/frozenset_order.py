# The same of bytes, one member.
# holds: varies
def attack():
    return next(iter(frozenset({b"a", b"b", b"c", b"d", b"e", b"f"})))
