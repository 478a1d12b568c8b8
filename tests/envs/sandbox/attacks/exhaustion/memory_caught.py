# The same, undaunted by MemoryError.
# holds: timeout|limit
def attack():
    kept = []
    while True:
        try:
            kept.append(bytearray(1 << 24))
        except MemoryError:
            pass
