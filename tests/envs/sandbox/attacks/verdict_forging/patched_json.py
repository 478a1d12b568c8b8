# Serialisers replaced.
# holds: not 42
import json
import struct


def attack():
    json.dumps = json.loads = lambda *a, **k: "42"
    struct.pack = lambda *a: b"42"
    return 41
