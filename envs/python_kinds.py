"""The kinds of inputs of `python`: which values are of a kind, how they are drawn, and the probes.

A kind is an annotation: `list[int]`. Values are exact built-in types; a dict's keys are drawn in ascending order, as
canonical texts have them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from envs.base import stable_seed

LETTERS = "abcdexyzAB"
WORD = (1, 4)
"""Letters of a word, smallest and largest number."""
PROBES = 24
PROBE_VALUES, PROBE_LENGTHS = (-12, 25), (0, 6)

Args = tuple[Any, ...]
"""The arguments of one call."""


class Ranges(NamedTuple):
    """How large drawn values are."""

    values: tuple[int, int]
    lengths: tuple[int, int]


class Kind(NamedTuple):
    """One kind of input."""

    draw: Callable[[random.Random, Ranges], Any]
    fits: Callable[[Any], bool]
    empty: Any
    """The value that somebody tries who does not think."""
    names: tuple[str, str]
    """Of a first and a second parameter of this kind, in programs that `task` poses."""


def _int(rng: random.Random, ranges: Ranges) -> int:
    return rng.randint(*ranges.values)


def _str(rng: random.Random, ranges: Ranges) -> str:
    return "".join(rng.choices(LETTERS, k=rng.randint(*ranges.lengths)))


def _word(rng: random.Random) -> str:
    return "".join(rng.choices(LETTERS, k=rng.randint(*WORD)))


def _numbers(rng: random.Random, ranges: Ranges) -> list[int]:
    return [_int(rng, ranges) for _ in range(rng.randint(*ranges.lengths))]


def _words(rng: random.Random, ranges: Ranges) -> list[str]:
    return [_word(rng) for _ in range(rng.randint(*ranges.lengths))]


def _dict(rng: random.Random, ranges: Ranges) -> dict[str, int]:
    keys = {_word(rng) for _ in range(rng.randint(*ranges.lengths))}
    return {key: _int(rng, ranges) for key in sorted(keys)}


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: type(value) is kind


def _is_list_of(kind: type) -> Callable[[Any], bool]:
    return lambda value: type(value) is list and all(type(v) is kind for v in value)


def _is_dict(value: Any) -> bool:
    return type(value) is dict and all(type(k) is str and type(v) is int for k, v in value.items())


KINDS: dict[str, Kind] = {
    "list[int]": Kind(_numbers, _is_list_of(int), [], ("xs", "ys")),
    "int": Kind(_int, _is(int), 0, ("n", "m")),
    "str": Kind(_str, _is(str), "", ("s", "other")),
    "list[str]": Kind(_words, _is_list_of(str), [], ("words", "others")),
    "dict[str, int]": Kind(_dict, _is_dict, {}, ("d", "e")),
}


def fits(kinds: Sequence[str], args: Args) -> bool:
    """Whether arguments are of some kinds, one each."""
    return len(args) == len(kinds) and all(KINDS[k].fits(v) for k, v in zip(kinds, args, strict=True))


def empty(kinds: Sequence[str]) -> Args:
    return tuple(KINDS[kind].empty for kind in kinds)


def draw(kinds: Sequence[str], ranges: Ranges, count: int, seed: int) -> list[Args]:
    """Distinct random arguments, as many as asked for, or fewer where there are few."""
    rng = random.Random(seed)
    found: dict[str, Args] = {}
    for _ in range(3 * count):
        args = tuple(KINDS[kind].draw(rng, ranges) for kind in kinds)
        found.setdefault(repr(args), args)
        if len(found) == count:
            break
    return list(found.values())


@lru_cache(maxsize=64)
def probes(kinds: tuple[str, ...]) -> tuple[Args, ...]:
    """The fixed arguments on which functions are compared: nothing, and larger and smaller values than tasks have."""
    wide = Ranges(PROBE_VALUES, PROBE_LENGTHS)
    return (empty(kinds), *draw(kinds, wide, PROBES, stable_seed("python probes", *kinds)))
