# A name made of clock and address.
# holds: varies
import uuid


def attack():
    return str(uuid.uuid1())
