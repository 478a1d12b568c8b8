# Memory, queues and keys that outlive the run or reach others.
# holds: ok []
import ctypes

LIBC = ctypes.CDLL(None, use_errno=True)


def syscall(number, *args):
    if LIBC.syscall(ctypes.c_long(number), *map(ctypes.c_long, args)) == -1:
        raise OSError(ctypes.get_errno())


def attack():
    acts = {
        "memfd": lambda: syscall(319, ctypes.addressof(ctypes.create_string_buffer(8)), 0),
        "shmget": lambda: syscall(29, 1, 4096, 0o1666),
        "msgget": lambda: syscall(68, 1, 0o1666),
        "semget": lambda: syscall(64, 1, 1, 0o1666),
        "mq_open": lambda: syscall(240, ctypes.addressof(ctypes.create_string_buffer(b"x")), 0o102, 0o666, 0),
        "keyctl": lambda: syscall(250, 0, -3, 1),
        "add_key": lambda: syscall(248, 0, 0, 0, 0, -3),
        "userfaultfd": lambda: syscall(323, 0),
        "shared_memory": lambda: __import__("_posixshmem").shm_open("/x", 0o102, 0o666),
    }
    through = []
    for name, act in acts.items():
        try:
            act()
        except (Exception, SystemExit):
            continue
        through.append(name)
    return through
