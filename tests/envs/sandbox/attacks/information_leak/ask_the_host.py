# Names, users, addresses, uptime.
# holds: ok []
import ctypes
import os

LIBC = ctypes.CDLL(None, use_errno=True)


def syscall(number, *args):
    if LIBC.syscall(ctypes.c_long(number), *map(ctypes.c_long, args)) == -1:
        raise OSError(ctypes.get_errno())


def attack():
    acts = {
        "uname": lambda: os.uname(),
        "gethostname": lambda: __import__("_socket").gethostname(),
        "getlogin": lambda: os.getlogin(),
        "sysinfo": lambda: syscall(99, ctypes.addressof(ctypes.create_string_buffer(256))),
        "load": lambda: os.getloadavg(),
        "rusage": lambda: __import__("resource").getrusage(0),
        "limits": lambda: __import__("resource").getrlimit(0),
        "groups": lambda: os.getgroups(),
        "affinity": lambda: os.sched_getaffinity(0),
        "priority": lambda: os.getpriority(0, 0),
        "ctermid": lambda: os.ttyname(0),
        "pwd": lambda: __import__("pwd").getpwuid(0),
        "terminal": lambda: os.get_terminal_size(),
        "getcpu": lambda: syscall(309, 0, 0, 0),
    }
    through = []
    for name, act in acts.items():
        try:
            act()
        except (Exception, SystemExit):
            continue
        through.append(name)
    return through
