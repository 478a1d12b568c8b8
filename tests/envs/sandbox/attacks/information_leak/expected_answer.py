# The expected answer, anywhere in the frames and objects of this process.
# holds: not 'expected_marker_7'
import gc
import sys


def attack():
    mark = "_".join(("expected", "marker")) + "_"
    frame = sys._getframe().f_back
    while frame:
        for value in frame.f_locals.values():
            if type(value) is str and value.startswith(mark):
                return value
        frame = frame.f_back
    for thing in gc.get_objects():
        values = thing.values() if type(thing) is dict else thing if type(thing) in (list, tuple) else ()
        for value in list(values):
            if type(value) is str and value.startswith(mark) and value != mark:
                return value
    return None
