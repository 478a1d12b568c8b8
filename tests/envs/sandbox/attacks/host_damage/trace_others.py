# Take the zygote or the trainer over as a debugger.
# holds: ok []
import ctypes
import os

LIBC = ctypes.CDLL(None, use_errno=True)


def syscall(number, *args):
    if LIBC.syscall(ctypes.c_long(number), *map(ctypes.c_long, args)) == -1:
        raise OSError(ctypes.get_errno())


def attack():
    acts = {
        "attach parent": lambda: syscall(101, 16, os.getppid(), 0, 0),
        "seize 1": lambda: syscall(101, 0x4206, 1, 0, 0),
        "traceme": lambda: syscall(101, 0, 0, 0, 0),
        "read memory": lambda: syscall(310, os.getppid(), 0, 0, 0, 0, 0),
        "write memory": lambda: syscall(311, os.getppid(), 0, 0, 0, 0, 0),
        "pidfd": lambda: syscall(434, 1, 0),
        "getfd": lambda: syscall(438, 3, 0, 0),
        "kcmp": lambda: syscall(312, 1, 1, 0, 0, 0),
    }
    through = []
    for name, act in acts.items():
        try:
            act()
        except (Exception, SystemExit):
            continue
        through.append(name)
    return through
