# `type`, `repr`, `len`, `isinstance` and friends replaced.
# holds: not 42
import builtins


def attack():
    builtins.repr = builtins.str = lambda x="": "42"
    builtins.isinstance = lambda *a: True
    builtins.all = builtins.any = lambda *a: True
    builtins.sorted = lambda *a, **k: [42]
    return 41
