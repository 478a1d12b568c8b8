# The time module made anew from the interpreter.
# holds: varies
import importlib.machinery
import sys


def attack():
    sys.modules.pop("time", None)
    loader = importlib.machinery.BuiltinImporter
    return loader.load_module("time").time_ns()
