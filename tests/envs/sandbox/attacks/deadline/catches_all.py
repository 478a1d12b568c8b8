# A loop that catches everything.
# holds: timeout
def attack():
    while True:
        try:
            while True:
                pass
        except BaseException:
            continue
