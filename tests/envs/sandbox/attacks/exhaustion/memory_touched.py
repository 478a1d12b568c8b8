# Memory that is written to, bit by bit.
# holds: limit
def attack():
    kept = []
    while True:
        kept.append(bytearray(1 << 24))
