# Namespaces, mounts and roots of one's own, to start over as root in them.
# holds: ok []
import ctypes

LIBC = ctypes.CDLL(None, use_errno=True)


def syscall(number, *args):
    if LIBC.syscall(ctypes.c_long(number), *map(ctypes.c_long, args)) == -1:
        raise OSError(ctypes.get_errno())


def attack():
    acts = {
        "unshare user": lambda: syscall(272, 0x10000000),
        "unshare all": lambda: syscall(272, 0x7E020000),
        "setns": lambda: syscall(308, 0, 0),
        "clone": lambda: syscall(56, 0x10000011, 0, 0, 0, 0),
        "clone3": lambda: syscall(435, 0, 0),
        "mount": lambda: syscall(165, 0, 0, 0, 0, 0),
        "umount": lambda: syscall(166, 0, 2),
        "pivot_root": lambda: syscall(155, 0, 0),
        "fsopen": lambda: syscall(430, 0, 0),
        "move_mount": lambda: syscall(429, -1, 0, -1, 0, 0),
        "vfork": lambda: syscall(58),
    }
    through = []
    for name, act in acts.items():
        try:
            act()
        except (Exception, SystemExit):
            continue
        through.append(name)
    return through
