# Threads without end.
# holds: ok 0
import _thread


def attack():
    started = 0
    for _ in range(1000):
        try:
            _thread.start_new_thread(print, ())
            started += 1
        except RuntimeError:
            pass
    return started
