# The same calls through x86's third ABI, whose numbers have another bit: the process ends.
# holds: error|ok []
import ctypes


def attack():
    libc = ctypes.CDLL(None, use_errno=True)
    x32 = 0x40000000
    through = []
    for number in (39, 57, 102, 520):
        if libc.syscall(ctypes.c_long(x32 | number), 0, 0, 0) != -1:
            through.append(number)
    return through
