# The order of a set of texts.
# holds: varies
def attack():
    return list({"ant", "bee", "cat", "dog", "eel"})
