# Another user, more capabilities.
# holds: ok []
import ctypes
import os

LIBC = ctypes.CDLL(None, use_errno=True)


def syscall(number, *args):
    if LIBC.syscall(ctypes.c_long(number), *map(ctypes.c_long, args)) == -1:
        raise OSError(ctypes.get_errno())


def attack():
    acts = {
        "setuid": lambda: os.setuid(0),
        "setresuid": lambda: os.setresuid(0, 0, 0),
        "setgid": lambda: os.setgid(0),
        "setgroups": lambda: os.setgroups([0]),
        "capset": lambda: syscall(126, 0, 0),
        "ambient": lambda: syscall(157, 47, 2, 21, 0, 0),
        "securebits": lambda: syscall(157, 28, 0, 0, 0, 0),
        "setsid": lambda: os.setsid(),
        "nice": lambda: os.nice(-5),
        "affinity": lambda: os.sched_setaffinity(0, {0}),
    }
    through = []
    for name, act in acts.items():
        try:
            act()
        except (Exception, SystemExit):
            continue
        through.append(name)
    return through
