"""Texts that a model may write and that no environment may choke on."""

from __future__ import annotations

JUNK: tuple[str, ...] = (
    "",
    " \n\t ",
    "I do not know.",
    "-",
    "=",
    "[]",
    "{}",
    "<answer></answer>",
    "<answer>",
    "NaN inf -0 0x null None 1e98765432101",
    "\0",
    "\0" * 64 + "\x1b[m\x7f",
    "\ud800 \udfff",
    "\u202e(cba) \u2067\u05d0\u05d1\u2069",
    "e\u0301\u0302\u0303" * 50,
    "\u0663\uff11\u0664\uff12\u0665\uff13\u0666\uff14 \u00b2\u00bd",
    "\U0001f9d1\u200d\U0001f680\ufeff",
)
"""Texts that no environment may choke on, nor take for a right answer; no small number in them is right by chance."""

HUGE: tuple[str, ...] = tuple(
    (unit * 100_000)[-100_000:] for unit in ("x", "9", "=", "[", "<answer>", "98765432101, ", "-98765432101", "\u0660")
)
"""The same, 100,000 characters each: time must not grow faster than length."""
