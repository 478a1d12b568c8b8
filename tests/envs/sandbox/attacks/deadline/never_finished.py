# A finally that does not end.
# holds: timeout
def attack():
    try:
        return 1
    finally:
        while True:
            pass
