# A signal to the zygote, to the trainer, to anyone.
# holds: ok []
import os
import signal


def attack():
    through = []
    for pid in [os.getppid(), os.getpid(), 1, 0, -1, *range(2, 200)]:
        for number in (0, signal.SIGKILL, signal.SIGSTOP):
            for send in (os.kill, os.killpg):
                try:
                    send(pid, number)
                except (OSError, OverflowError):
                    continue
                through.append((pid, int(number)))
    return through
