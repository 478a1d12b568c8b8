# A name that nobody has.
# holds: varies
import uuid


def attack():
    return str(uuid.uuid4())
