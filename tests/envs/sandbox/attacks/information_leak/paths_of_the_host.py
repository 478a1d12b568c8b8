# Where the interpreter and the project are installed.
# holds: ok []
import sys


def attack():
    told = [sys.executable, sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path, *sys.argv, *sys.orig_argv]
    files = [getattr(module, "__file__", "") or "" for module in list(sys.modules.values())]
    return [text for text in told + files if len(text) > 1 and "/" in text]
