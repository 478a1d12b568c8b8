# The functions that write the frame, found in sys.modules and replaced.
# holds: not True
import sys


def attack():
    for name, module in list(sys.modules.items()):
        if "sandbox" in name:
            for key, value in list(vars(module).items()):
                if callable(value) and not isinstance(value, type):
                    setattr(module, key, lambda *a, **k: b"True")
    return False
