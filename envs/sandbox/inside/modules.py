"""The standard library that programs find loaded; no file can be opened later, so nothing else can be imported.

The list is what pure functions need, and a matter of task quality: the walls hold with any module.
"""

from __future__ import annotations

import importlib
import random
import sys
import warnings

PRELOADED = (
    "abc array ast base64 binascii bisect calendar cmath codecs collections collections.abc contextlib copy "
    "csv dataclasses datetime decimal difflib enum fractions functools graphlib hashlib heapq html ipaddress "
    "itertools json keyword locale math numbers operator pathlib pprint queue random re shlex statistics "
    "string struct textwrap threading time timeit traceback types typing unicodedata uuid weakref zlib "
    "_strptime encodings.ascii encodings.cp1252 encodings.hex_codec encodings.idna encodings.latin_1 "
    "encodings.rot_13 encodings.unicode_escape encodings.utf_16 encodings.utf_32 encodings.utf_8 "
).split()


def preload() -> None:
    for name in PRELOADED:
        importlib.import_module(name)
    random.seed()  # from the kernel, so another state in each worker: unseeded draws are seen to differ


def shift_heap() -> list[bytes]:
    """Objects to keep, a random number of every size, so that low bits of addresses differ between workers too.

    The kernel places memory by whole pages; within a page, equal histories give equal places.
    """
    draw = random.SystemRandom().randrange
    small = [bytes(size) for size in range(1, 480, 16) for _ in range(draw(64))]
    return small + [bytes(size) for size in range(512, 2048, 64) for _ in range(draw(8))]


def tidy() -> None:
    """Take away what tells of the host: paths, arguments, loaders of files. No wall, only less noise."""
    sys.argv, sys.orig_argv = ["program"], []
    sys.path.clear()
    sys.path_hooks.clear()
    sys.path_importer_cache.clear()
    sys.executable = sys._base_executable = ""  # type: ignore[attr-defined]
    sys.prefix = sys.base_prefix = sys.exec_prefix = sys.base_exec_prefix = "/"
    for module in list(sys.modules.values()):
        for name in ("__file__", "__cached__", "__path__"):
            if isinstance(getattr(module, name, None), str):
                setattr(module, name, "")
    warnings.simplefilter("ignore")
