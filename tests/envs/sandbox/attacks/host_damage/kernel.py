# Change the kernel itself.
# holds: ok []
import ctypes

LIBC = ctypes.CDLL(None, use_errno=True)


def syscall(number, *args):
    if LIBC.syscall(ctypes.c_long(number), *map(ctypes.c_long, args)) == -1:
        raise OSError(ctypes.get_errno())


def attack():
    acts = {
        "bpf": lambda: syscall(321, 0, 0, 0),
        "perf": lambda: syscall(298, 0, 0, -1, -1, 0),
        "reboot": lambda: syscall(169, 0xFEE1DEAD, 672274793, 0, 0),
        "init_module": lambda: syscall(175, 0, 0, 0),
        "kexec": lambda: syscall(246, 0, 0, 0, 0),
        "sethostname": lambda: syscall(170, 0, 0),
        "settimeofday": lambda: syscall(164, 0, 0),
        "swapon": lambda: syscall(167, 0, 0),
        "syslog": lambda: syscall(103, 10, 0, 0),
        "iopl": lambda: syscall(172, 3),
        "acct": lambda: syscall(163, 0),
    }
    through = []
    for name, act in acts.items():
        try:
            act()
        except (Exception, SystemExit):
            continue
        through.append(name)
    return through
