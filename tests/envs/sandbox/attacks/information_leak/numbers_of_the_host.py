# Who one is: the kernel answers none of it.
# holds: ok [-1, -1, -1, -1, -1]
import os


def attack():
    return [os.getpid(), os.getppid(), os.getuid(), os.geteuid(), os.getgid()]
