# Keys whose hashes all collide, to keep the reader busy.
# holds: limit
def attack():
    return {k * (2**61 - 1) for k in range(3000)}
