"""How messages become the text that a policy reads. A template is data in the recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from envs.base import Message


def plain(messages: Sequence[Message]) -> str:
    """The texts one after the other: for base models, which continue text."""
    return "".join(m.text for m in messages)


TEMPLATES: dict[str, Callable[[Sequence[Message]], str]] = {"plain": plain}
