# NaN, which equals nothing.
# holds: not 1e999
def attack():
    return float("nan")
