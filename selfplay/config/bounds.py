"""How a field out of its bounds is refused."""

from __future__ import annotations

from selfplay.errors import UserError


def check(ok: bool, name: str, allowed: str, value: object) -> None:
    """Refuse a value in one line: its field, what is allowed, what came."""
    if not ok:
        raise UserError(f"{name} must be {allowed}, got {value!r}")
