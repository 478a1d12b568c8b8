# Be told of what others do to files.
# holds: ok []
import ctypes

LIBC = ctypes.CDLL(None, use_errno=True)


def syscall(number, *args):
    if LIBC.syscall(ctypes.c_long(number), *map(ctypes.c_long, args)) == -1:
        raise OSError(ctypes.get_errno())


def attack():
    acts = {
        "inotify": lambda: syscall(253),
        "inotify1": lambda: syscall(294, 0),
        "fanotify": lambda: syscall(300, 0, 0),
        "epoll": lambda: syscall(291, 0),
        "signalfd": lambda: syscall(289, -1, 0, 8, 0),
        "eventfd": lambda: syscall(290, 0, 0),
        "timerfd": lambda: syscall(283, 0, 0),
        "lookup_dcookie": lambda: syscall(212, 0, 0, 0),
    }
    through = []
    for name, act in acts.items():
        try:
            act()
        except (Exception, SystemExit):
            continue
        through.append(name)
    return through
