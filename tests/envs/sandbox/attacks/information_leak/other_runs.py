# Programs, calls or answers of other runs in the zygote's memory.
# holds: ok []
import gc
import sys


def strings(thing):
    if isinstance(thing, str | bytes):
        yield str(thing)
    elif isinstance(thing, dict):
        yield from (str(v) for v in thing.values() if isinstance(v, str | bytes))
    elif isinstance(thing, list | tuple | set):
        yield from (str(v) for v in thing if isinstance(v, str | bytes))


def attack():
    mark = "_".join(("honest", "marker"))
    found, frame = set(), sys._getframe().f_back
    while frame:
        found.update(s for v in frame.f_locals.values() for s in strings(v) if mark in s)
        frame = frame.f_back
    for thing in gc.get_objects():
        found.update(s for s in strings(thing) if mark in s)
    return sorted(found)
