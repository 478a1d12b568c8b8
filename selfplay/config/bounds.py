"""How a field out of its bounds is refused, and the roles that fields speak of."""

from __future__ import annotations

from typing import Literal, get_args

from selfplay.errors import UserError

Role = Literal["propose", "solve", "play"]
"""What a policy is asked to do: write tasks, solve them, or sit at a seat of a game."""

ROLES: tuple[Role, ...] = get_args(Role)


def check(ok: bool, name: str, allowed: str, value: object) -> None:
    """Refuse a value in one line: its field, what is allowed, what came."""
    if not ok:
        raise UserError(f"{name} must be {allowed}, got {value!r}")
