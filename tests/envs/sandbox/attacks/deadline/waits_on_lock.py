# A lock that nobody will give back.
# holds: timeout
import _thread


def attack():
    lock = _thread.allocate_lock()
    lock.acquire()
    lock.acquire()
