# Start another program.
# holds: ok []
import os


def attack():
    acts = {
        "execv": lambda: os.execv("/bin/sh", ["sh", "-c", "touch /tmp/selfplay-escape"]),
        "spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
        "popen": lambda: os.popen("touch /tmp/selfplay-escape").read(),
        "subprocess": lambda: __import__("subprocess").run(["/bin/true"], check=True),
        "multiprocessing": lambda: __import__("multiprocessing").Process(target=print).start(),
        "fexecve": lambda: os.execve(0, ["x"], {}),
        "pty": lambda: os.openpty(),
    }
    through = []
    for name, act in acts.items():
        try:
            act()
        except (Exception, SystemExit):
            continue
        through.append(name)
    return through
