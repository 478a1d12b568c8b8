"""What a policy remembers besides its weights: lessons, bounded, the oldest forgotten first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from envs.base import digest
from selfplay.records import Lesson, decode, encode


@dataclass(frozen=True)
class Memory:
    """Lessons, the oldest first; a value, whose digest is part of a policy's version."""

    lessons: tuple[Lesson, ...] = ()

    @cached_property
    def digest(self) -> str:
        """Of the contents; empty for an empty memory."""
        return digest(encode(self.lessons).hex()) if self.lessons else ""

    def with_lessons(self, new: Iterable[Lesson], *, capacity: int) -> Memory:
        """These and new ones, one a family (the newest), and no more than `capacity`."""
        kept = {(x.env, x.mode, x.family): x for x in self.lessons}
        for lesson in new:
            name = lesson.env, lesson.mode, lesson.family
            kept.pop(name, None)
            kept[name] = lesson
        return Memory(tuple(kept.values())[-capacity:])

    def to_bytes(self) -> bytes:
        return encode(self.lessons)

    @classmethod
    def from_bytes(cls, data: bytes) -> Memory:
        return cls(tuple(decode(data, list[Lesson])))
