# Code that stays behind: a thread, atexit, a new session, a timer.
# holds: ok [1]
import _thread
import atexit
import os
import signal


def forever(*args):
    while True:
        pass


def attack():
    atexit.register(forever)
    for leave in (
        lambda: _thread.start_new_thread(forever, ()),
        lambda: os.fork() or os.setsid() or forever(),
        lambda: signal.setitimer(signal.ITIMER_REAL, 0.01),
        lambda: signal.alarm(1),
    ):
        try:
            leave()
        except (OSError, RuntimeError):
            pass
    return [1]
