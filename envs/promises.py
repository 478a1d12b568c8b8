"""How a check of the conformance kit says that a promise is broken, or does not apply."""

from __future__ import annotations


class Broken(Exception):
    """A promise that is not kept; the text says which, expected and got."""


class Skip(Exception):
    """A check that does not apply to this environment."""


def need(condition: bool, complaint: str) -> None:
    """Break off unless the promise is kept."""
    if not condition:
        raise Broken(complaint)
