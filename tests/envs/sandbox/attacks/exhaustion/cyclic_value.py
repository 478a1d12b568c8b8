# A value that holds itself.
# holds: limit
def attack():
    value = [1]
    value.append(value)
    return {"x": value}
