# Whether a path is there, and what is in it.
# holds: ok []
import os


def attack():
    acts = {
        "stat": lambda: os.stat("/etc/passwd"),
        "lstat": lambda: os.lstat("/"),
        "fstat": lambda: os.fstat(0),
        "listdir": lambda: os.listdir("/"),
        "scandir": lambda: os.scandir("."),
        "readlink": lambda: os.readlink("/proc/self/exe"),
        "statvfs": lambda: os.statvfs("/"),
        "getcwd": lambda: os.getcwd(),
        "access": lambda: 1 / os.access("/", os.F_OK),
        "exists": lambda: 1 / os.path.exists("/etc"),
        "listxattr": lambda: os.listxattr("/etc"),
        "realpath": lambda: os.path.realpath("/proc/self/exe", strict=True),
    }
    through = []
    for name, act in acts.items():
        try:
            act()
        except (Exception, SystemExit):
            continue
        through.append(name)
    return through
