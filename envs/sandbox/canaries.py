"""Small attacks that a new worker must withstand, and a program that it must run, before it is trusted with any.

The tier is what was seen to hold, not what a kernel's settings promise.
"""

from __future__ import annotations

_TRY = """
import os, sys
def tried(act):
    try:
        act()
    except Exception:
        return True
    return False
def fork():
    if os.fork() == 0:
        os._exit(0)
def canary():
    import _socket
    walls = {
        "open": lambda: os.open("/etc/passwd", os.O_RDONLY),
        "stat": lambda: os.stat("/"),
        "list": lambda: os.listdir("/"),
        "fork": fork,
        "exec": lambda: os.execv("/bin/true", ["true"]),
        "kill": lambda: os.kill(os.getppid(), 0),
        "socket": lambda: _socket.socket(),
        "entropy": lambda: os.urandom(1),
        "pipe": os.pipe,
    }
    return sorted(name for name, act in walls.items() if not tried(act))
"""

_HONEST = """
import collections, math
def canary():
    counts = collections.Counter(str(math.factorial(30)))
    return {"most": counts.most_common(2), "ok": True, "none": None, "ratio": 0.1 + 0.2}
"""

ATTACK = (_TRY, "canary()", "[]")
HONEST = (_HONEST, "canary()", "{'most': [('0', 9), ('8', 5)], 'none': None, 'ok': True, 'ratio': 0.30000000000000004}")
"""Program, call, and the canonical text that must come back."""
