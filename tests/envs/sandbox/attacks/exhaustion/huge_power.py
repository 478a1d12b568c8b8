# An int that takes ages to compute, within one step of the interpreter.
# holds: timeout|limit
def attack():
    return 3 ** (10**9) % 7
