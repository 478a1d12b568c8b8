# Return values changed by a trace.
# holds: not 42
import sys


def attack():
    def trace(frame, event, arg):
        if event == "return":
            frame.f_locals.update(value=42, result=42)
        return trace

    sys.settrace(trace)
    sys.setprofile(trace)
    return 41
