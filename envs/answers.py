"""Finding the answer in what a model wrote. Every function is total and linear in the length of the text."""

from __future__ import annotations

import re
from collections import deque
from fractions import Fraction

OPEN, CLOSE = "<answer>", "</answer>"

MAX_NUMBER = 200
"""Longest number, in characters, that is read as one; a longer one is no answer."""

_NUMBER = re.compile(
    r"(?:(?<![0-9])-)?"  # a sign, not a minus between numbers
    r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![.\w])\.[0-9]+)"
    r"(?:/[0-9]+)?"
)


def tagged(text: str) -> str | None:
    """What stands in the last <answer> tag (to the end of the text if it is never closed); None without a tag."""
    start = text.rfind(OPEN)
    if start < 0:
        return None
    inside = text[start + len(OPEN) :]
    end = inside.find(CLOSE)
    return (inside if end < 0 else inside[:end]).strip()


def answer_part(text: str) -> str:
    """The part of a text that holds the answer: the last <answer> tag, or all of it without a tag."""
    inside = tagged(text)
    return text.strip() if inside is None else inside


def last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """The last place where a pattern is found, read from the left."""
    found = deque(pattern.finditer(text), maxlen=1)
    return found[0] if found else None


def last_number(text: str) -> Fraction | None:
    """The last number of a text: an integer, a decimal or a fraction, with or without commas every three digits.

    A minus right after a digit is a minus sign between numbers, not a sign: `5-7` ends in 7, `= -7` in -7.
    """
    last = last_match(_NUMBER, text.replace("\N{MINUS SIGN}", "-"))
    if last is None or len(last.group()) > MAX_NUMBER:
        return None
    top, _, bottom = last.group().replace(",", "").partition("/")
    if bottom and not bottom.strip("0"):
        return None
    return Fraction(top) / Fraction(bottom or "1")


def last_integer(text: str) -> int | None:
    """The last number of a text if it is whole, else None."""
    number = last_number(text)
    return None if number is None or number.denominator != 1 else number.numerator
