# What the trainer's environment holds.
# holds: ok []
import os


def attack():
    return sorted(set(os.environ) - {"LC_CTYPE"})
