# An exit with success and nothing said.
# holds: not None
import os


def attack():
    os._exit(0)
