"""Giving back what malloc keeps."""

import os
import platform
from pathlib import Path

import numpy as np
import pytest

from selfplay.heap import trim


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has no malloc_trim")
def test_trim_gives_back_what_lies_free_between_what_is_used():
    blocks = [np.ones(8192) for _ in range(2048)]  # 64 KB each, below what malloc maps by itself
    held = blocks[::64]
    del blocks
    before = _resident()
    trim()
    assert before - _resident() > 64 * 2**20
    assert all(block.sum() == block.size for block in held)


def _resident() -> int:
    """Bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
