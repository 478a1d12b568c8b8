# The name of this thread.
# holds: varies
import _thread


def attack():
    return _thread.get_ident()
