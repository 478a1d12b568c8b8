"""The errors that a person sees. Each is one line: what was wrong, what is allowed, the nearest names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SelfplayError(Exception):
    """Root of our errors; `exit_code` is what the command line returns."""

    exit_code = 1


class UserError(SelfplayError):
    """Something given by the user cannot be used: exit code 2, nothing written."""

    exit_code = 2


class ActorError(SelfplayError):
    """An actor process died, timed out or broke the protocol."""


class CheckpointError(UserError):
    """A generation on disk is damaged, or of another format or environment version."""


def nearest(name: str, valid: Iterable[str], *, count: int = 3) -> str:
    """A readable hint: the nearest valid names, or all of them when few."""
    names = sorted(set(valid))
    close = difflib.get_close_matches(name, names, n=count, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(close) + "?"
    return ("valid: " + ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")) if names else "there are none"
