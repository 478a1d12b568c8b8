"""The errors that a person sees. Each is one line: what was wrong, what is allowed, the nearest names."""

from __future__ import annotations

from envs.base import nearest as nearest


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
