# Leave a file anywhere.
# holds: ok []
import io
import os


def attack():
    acts = {
        "open": lambda: open("/tmp/selfplay-escape", "w"),
        "os.open": lambda: os.open("/tmp/selfplay-escape", os.O_CREAT | os.O_WRONLY),
        "shm": lambda: open("/dev/shm/selfplay-escape", "wb"),
        "cwd": lambda: open("selfplay-escape", "a"),
        "root": lambda: open("/selfplay-escape", "w"),
        "fileio": lambda: io.FileIO("/var/tmp/selfplay-escape", "w"),
        "mkdir": lambda: os.mkdir("/tmp/selfplay-escape.d"),
        "mkfifo": lambda: os.mkfifo("/tmp/selfplay-escape.f"),
        "symlink": lambda: os.symlink("/etc", "/tmp/selfplay-escape.l"),
        "mknod": lambda: os.mknod("/tmp/selfplay-escape.n"),
        "tmpfile": lambda: os.open("/tmp", os.O_TMPFILE | os.O_RDWR),
    }
    through = []
    for name, act in acts.items():
        try:
            act()
        except (Exception, SystemExit):
            continue
        through.append(name)
    return through
