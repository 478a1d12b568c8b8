"""The errors that a person sees. Each is one line: what was wrong, what is allowed, the nearest names."""

from __future__ import annotations

import sys

from envs.base import EnvUserError
from envs.base import nearest as nearest


class SelfplayError(Exception):
    """Root of our errors; `exit_code` is what the command line returns."""

    exit_code = 1


class UserError(SelfplayError):
    """Something given by the user cannot be used: exit code 2, nothing written."""

    exit_code = 2


class ActorError(SelfplayError):
    """An actor process died, timed out or broke the protocol."""


class HostError(SelfplayError):
    """Another process of the learner died, or the work that all do together broke off."""


class CheckpointError(UserError):
    """A generation on disk is damaged, or of another format or environment version."""


def report(error: BaseException) -> int | None:
    """Print an error that a person sees as one line on stderr; returns the exit code, or None for any other error."""
    if isinstance(error, KeyboardInterrupt):
        print("selfplay: stopped", file=sys.stderr)
        return 130
    if not isinstance(error, SelfplayError | EnvUserError):
        return None
    print(f"selfplay: error: {' '.join(str(error).split())}", file=sys.stderr)
    return error.exit_code if isinstance(error, SelfplayError) else UserError.exit_code
