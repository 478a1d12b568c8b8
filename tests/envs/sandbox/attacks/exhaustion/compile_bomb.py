# Source that breaks the parser.
# holds: error|limit
def attack():
    return eval("(" * 90_000) or eval("-" * 90_000 + "1")
