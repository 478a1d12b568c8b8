# Syntax trees too deep to compile.
# holds: error|limit
def attack():
    return eval("+".join(["1"] * 100_000)), eval("lambda: " * 20_000 + "1")
