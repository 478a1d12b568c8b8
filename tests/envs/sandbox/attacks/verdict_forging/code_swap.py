# The running code of our own frames, found by the collector, swapped.
# holds: not True
import gc
import types


def always(*args, **options):
    return True


def attack():
    for thing in gc.get_objects():
        if isinstance(thing, types.FunctionType) and "sandbox" in thing.__code__.co_filename:
            try:
                thing.__code__ = always.__code__
            except ValueError:
                pass
    return False
