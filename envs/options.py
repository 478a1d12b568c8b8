"""Checks of what a person gives an environment: one clear line that names the option, the bound and the value."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from envs.base import SPLITS, EnvSpec, EnvUserError, Split, nearest

T = TypeVar("T")


def one_of(env: str, option: str, value: T, valid: Iterable[T]) -> T:
    """The value, if it is one of the valid ones."""
    allowed = list(valid)
    if type(value) not in {type(v) for v in allowed} or value not in allowed:
        hint = nearest(str(value), map(str, allowed))
        raise EnvUserError(f"{env}: option {option} must be one of {_list(allowed)}, got {value!r}; {hint}")
    return value


def whole(env: str, option: str, value: Any, *, least: int, most: int) -> int:
    """The value, if it is a whole number within bounds."""
    if type(value) is not int or not least <= value <= most:
        raise EnvUserError(f"{env}: option {option} must be a whole number from {least} to {most}, got {value!r}")
    return value


def fraction(env: str, option: str, value: Any) -> float:
    """The value, if it is a number from 0 to 1."""
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise EnvUserError(f"{env}: option {option} must be a number from 0 to 1, got {value!r}")
    return float(value)


def bounds(env: str, option: str, value: Sequence[int], *, least: int, most: int) -> tuple[int, int]:
    """The value, if it is a pair (smallest, largest) within bounds."""
    pair = tuple(value) if isinstance(value, (list, tuple)) else ()
    whole_pair = len(pair) == 2 and all(type(v) is int for v in pair)
    if not whole_pair or not least <= pair[0] <= pair[1] <= most:
        raise EnvUserError(
            f"{env}: option {option} must be two whole numbers from {least} to {most}, the smaller first, got {value!r}"
        )
    return pair[0], pair[1]


def pair(env: str, option: str, value: Sequence[int], *, least: int, most: int) -> tuple[int, int]:
    """The value, if it is two whole numbers within bounds, in any order."""
    found = tuple(value) if isinstance(value, (list, tuple)) else ()
    if len(found) != 2 or any(type(v) is not int or not least <= v <= most for v in found):
        raise EnvUserError(f"{env}: option {option} must be two whole numbers from {least} to {most}, got {value!r}")
    return found[0], found[1]


def place(
    spec: EnvSpec,
    split: str,
    index: int,
    mode: str | None,
    difficulty: int | None,
    *,
    splits: tuple[Split, ...] | None = None,
) -> tuple[str, int | None]:
    """The mode and difficulty of a task asked for, if the environment has them.

    Args:
      splits: what may be asked for; None = those that the spec declares.

    Returns:
      The mode (the first one for None), and the difficulty (None stays: the environment draws it).
    """
    splits = spec.splits if splits is None else splits
    if split not in SPLITS or split not in splits:
        raise EnvUserError(f"{spec.name}: no split {split!r}; it has {_list(splits)}")
    if index < 0:
        raise EnvUserError(f"{spec.name}: index must be 0 or more, got {index}")
    if mode is not None and mode not in spec.modes:
        raise EnvUserError(f"{spec.name}: no mode {mode!r}; {nearest(mode, spec.modes)}")
    if difficulty is not None and difficulty not in spec.difficulties:
        raise EnvUserError(f"{spec.name}: no difficulty {difficulty!r}; it has {_list(spec.difficulties)}")
    return spec.modes[0] if mode is None else mode, difficulty


def _list(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
