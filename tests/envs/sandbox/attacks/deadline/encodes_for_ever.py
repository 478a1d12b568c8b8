# A value that grows while it is written.
# holds: timeout
def attack():
    class Slow:
        def __index__(self):
            while True:
                pass

    return [0][Slow()]
