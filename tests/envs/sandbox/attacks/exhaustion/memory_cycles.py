# Garbage that only a collector would find, with the collector off.
# holds: limit
import gc


def attack():
    gc.disable()
    while True:
        loop = [bytearray(1 << 22)]
        loop.append(loop)
