# Modules and builtins spoilt for the run that comes after.
# holds: ok 1
import builtins
import functools
import math
import re


def attack():
    math.visits = getattr(math, "visits", 0) + 1
    visits = math.visits
    re.compile = re.match = math.sqrt = functools.reduce = lambda *a: 42
    for name in ("len", "sum", "print", "compile", "exec", "eval"):
        setattr(builtins, name, lambda *a: 42)
    return visits
