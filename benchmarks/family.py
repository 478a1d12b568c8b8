"""This process and all that came from it, as Linux tells it."""

from __future__ import annotations

import os
from pathlib import Path


def family() -> dict[int, list[str]]:
    """Process -> its fields of /proc/PID/stat from the third on, the state; for this process and its descendants."""
    fields = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields[int(folder.name)] = (folder / "stat").read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
    found = {os.getpid()}
    while more := {process for process, known in fields.items() if int(known[1]) in found} - found:
        found |= more
    return {process: fields[process] for process in found}


def processor_s() -> float:
    """Processor time that they have taken, their reaped children's included, in steps of the kernel's clock tick."""
    return sum(sum(map(int, known[11:15])) for known in family().values()) / os.sysconf("SC_CLK_TCK")


def resident_bytes() -> dict[int, int]:
    """What each has resident."""
    return {process: int(known[21]) * os.sysconf("SC_PAGE_SIZE") for process, known in family().items()}
