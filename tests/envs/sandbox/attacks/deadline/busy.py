# A loop.
# holds: timeout
def attack():
    while True:
        pass
