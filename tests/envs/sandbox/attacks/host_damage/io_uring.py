# File and socket calls through a ring that filters do not see.
# holds: ok []
import ctypes

LIBC = ctypes.CDLL(None, use_errno=True)


def syscall(number, *args):
    if LIBC.syscall(ctypes.c_long(number), *map(ctypes.c_long, args)) == -1:
        raise OSError(ctypes.get_errno())


def attack():
    acts = {
        "setup": lambda: syscall(425, 8, ctypes.addressof(ctypes.create_string_buffer(120))),
        "enter": lambda: syscall(426, 0, 1, 1, 0, 0, 0),
        "register": lambda: syscall(427, 0, 0, 0, 0),
        "aio": lambda: syscall(206, 1, ctypes.addressof(ctypes.create_string_buffer(8))),
    }
    through = []
    for name, act in acts.items():
        try:
            act()
        except (Exception, SystemExit):
            continue
        through.append(name)
    return through
