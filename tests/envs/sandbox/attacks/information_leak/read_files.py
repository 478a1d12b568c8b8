# What lies on the host.
# holds: ok []
import io
import os


def attack():
    acts = {
        "passwd": lambda: open("/etc/passwd").read(),
        "shadow": lambda: open("/etc/shadow").read(),
        "environ": lambda: open("/proc/self/environ", "rb").read(),
        "maps": lambda: open("/proc/self/maps").read(),
        "mem": lambda: open("/proc/self/mem", "rb").read(1),
        "init": lambda: open("/proc/1/cmdline").read(),
        "parent": lambda: open(f"/proc/{os.getppid()}/environ").read(),
        "fd": lambda: open("/proc/self/fd/0").read(),
        "code": lambda: io.open_code("/etc/hostname").read(),
        "fdopen": lambda: os.open(".", os.O_PATH),
        "urandom": lambda: open("/dev/urandom", "rb").read(1),
        "self": lambda: open(os.__file__).read(),
        "linecache": lambda: 1 / len(__import__("linecache").getlines("/etc/passwd")),
    }
    through = []
    for name, act in acts.items():
        try:
            act()
        except (Exception, SystemExit):
            continue
        through.append(name)
    return through
