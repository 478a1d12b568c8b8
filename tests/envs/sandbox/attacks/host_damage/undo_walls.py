# Take a wall off again, or put up one that answers for the kernel.
# holds: ok []
import ctypes
import resource

LIBC = ctypes.CDLL(None, use_errno=True)


def syscall(number, *args):
    if LIBC.syscall(ctypes.c_long(number), *map(ctypes.c_long, args)) == -1:
        raise OSError(ctypes.get_errno())


def attack():
    acts = {
        "limits": lambda: resource.setrlimit(resource.RLIMIT_AS, (-1, -1)),
        "cpu": lambda: resource.setrlimit(resource.RLIMIT_CPU, (1000, 1000)),
        "prlimit": lambda: resource.prlimit(0, resource.RLIMIT_NPROC, (99, 99)),
        "seccomp": lambda: syscall(317, 1, 0, 0),
        "notify": lambda: syscall(317, 1, 8, 0),
        "prctl": lambda: syscall(157, 22, 2, 0),
        "dumpable": lambda: syscall(157, 4, 1),
        "pdeathsig": lambda: syscall(157, 1, 0),
        "tsc": lambda: syscall(157, 26, 1),
        "landlock": lambda: syscall(444, 0, 0, 1),
        "no_new_privs": lambda: syscall(157, 39, 0, 0, 0, 0),
    }
    through = []
    for name, act in acts.items():
        try:
            act()
        except (Exception, SystemExit):
            continue
        through.append(name)
    return through
