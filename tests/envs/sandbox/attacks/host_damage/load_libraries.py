# Code from a file: a library, a module, a zip.
# holds: ok []
import ctypes
import importlib.machinery


def attack():
    acts = {
        "libc": lambda: ctypes.CDLL("libc.so.6").nothing_of_this_name,
        "path": lambda: ctypes.CDLL("/lib/x86_64-linux-gnu/libresolv.so.2"),
        "sqlite": lambda: __import__("sqlite3"),
        "asyncio": lambda: __import__("asyncio"),
        "pip": lambda: __import__("pip"),
        "numpy": lambda: __import__("numpy"),
        "source": lambda: importlib.machinery.SourceFileLoader("x", "/etc/passwd").load_module(),
        "extension": lambda: importlib.machinery.ExtensionFileLoader("x", "/lib/x.so").create_module(None),
        "zip": lambda: __import__("zipimport").zipimporter("/tmp/x.zip"),
        "data": lambda: importlib.machinery.SourceFileLoader("x", "/x").get_data("/etc/passwd"),
    }
    through = []
    for name, act in acts.items():
        try:
            act()
        except (Exception, SystemExit):
            continue
        through.append(name)
    return through
