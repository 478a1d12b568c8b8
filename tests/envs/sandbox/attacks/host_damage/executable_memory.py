# Memory for machine code of one's own.
# holds: ok []
import ctypes

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p


def check(result):
    if result == -1:
        raise OSError


def syscall(number, *args):
    check(LIBC.syscall(ctypes.c_long(number), *map(ctypes.c_long, args)))


def attack():
    acts = {
        "mmap": lambda: syscall(9, 0, 4096, 7, 0x22, -1, 0),
        "mmap rx": lambda: syscall(9, 0, 4096, 5, 0x22, -1, 0),
        "mprotect": lambda: check(LIBC.mprotect(ctypes.c_void_p(LIBC.mmap(None, 4096, 3, 0x22, -1, 0)), 4096, 7)),
        "pkey": lambda: syscall(329, 0, 4096, 7, -1),
        "remap_file_pages": lambda: syscall(216, 0, 4096, 4, 0, 0),
        "personality": lambda: syscall(135, 0x0400000),
    }
    through = []
    for name, act in acts.items():
        try:
            act()
        except (Exception, SystemExit):
            continue
        through.append(name)
    return through
