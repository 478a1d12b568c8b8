"""The steps of which `python` makes programs: each is a piece of Python text, and our own function that computes it.

`{0}` and `{1}` stand for arguments, `{k}` for a constant, `{out}` for the variable that a step of several lines sets.
Nothing here executes text: a step's value comes from `compute`, and a test shows that the text gives the same in the
sandbox. Every step is total: it gives a value for all arguments of its kinds.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any, NamedTuple

Compute = Callable[..., Any]


class Step(NamedTuple):
    """One operation, or a few that belong together."""

    gives: str
    """A kind."""
    takes: tuple[str, ...]
    text: str
    """An expression, or lines that set `{out}`."""
    compute: Compute
    """Of the arguments, then the constant if the text has one."""
    constants: tuple[int, int] = (2, 9)
    """Smallest and largest constant."""

    @property
    def block(self) -> bool:
        """Whether it is lines, not an expression."""
        return "{out}" in self.text

    @property
    def has_constant(self) -> bool:
        return "{k}" in self.text


INT, STR, NUMBERS, WORDS, DICT = "int", "str", "list[int]", "list[str]", "dict[str, int]"

_RUNNING = """\
{out} = []
t = 0
for v in {0}:
    t += v
    {out}.append(t)"""

_RISES = """\
{out} = 0
for i in range(1, len({0})):
    if {0}[i] > {0}[i - 1]:
        {out} += {k}"""

_ALTERNATE = """\
{out} = 0
for v in {0}:
    if v % 2 == 0:
        {out} += v
    else:
        {out} -= {k}"""

_DIGITS = """\
{out} = 0
t = abs({0})
while t > 0:
    {out} += t % 10
    t //= 10"""

_HALVES = """\
{out} = []
t = abs({0})
while t > 0:
    {out}.append(t)
    t //= {k}"""

_COUNTS = """\
{out} = {{}}
for w in {0}:
    {out}[w] = {out}.get(w, 0) + 1"""

_LONGEST = """\
{out} = ''
for w in {0}:
    if len(w) > len({out}):
        {out} = w"""

_SQUEEZE = """\
{out} = ''
for c in {0}:
    if c not in {out}:
        {out} += c"""


def _rises(numbers: list[int], k: int) -> int:
    return k * sum(b > a for a, b in zip(numbers, numbers[1:], strict=False))


def _alternate(numbers: list[int], k: int) -> int:
    return sum(v if v % 2 == 0 else -k for v in numbers)


def _digits(number: int) -> int:
    return sum(map(int, str(abs(number))))


def _halves(number: int, k: int) -> list[int]:
    left, found = abs(number), []
    while left > 0:
        found.append(left)
        left //= k
    return found


def _counts(words: list[str] | str) -> dict[str, int]:
    return {word: words.count(word) for word in dict.fromkeys(words)}


def _unique(values: Any) -> list[Any]:
    return list(dict.fromkeys(values))


STEPS: tuple[Step, ...] = (
    # numbers
    Step(INT, (INT, INT), "{0} + {1}", lambda a, b: a + b),
    Step(INT, (INT, INT), "{0} - {1}", lambda a, b: a - b),
    Step(INT, (INT, INT), "{0} * {1}", lambda a, b: a * b),
    Step(INT, (INT, INT), "max({0}, {1})", max),
    Step(INT, (INT, INT), "min({0}, {1})", min),
    Step(INT, (INT,), "{0} + {k}", lambda a, k: a + k),
    Step(INT, (INT,), "{k} - {0}", lambda a, k: k - a),
    Step(INT, (INT,), "{0} * {k}", lambda a, k: a * k),
    Step(INT, (INT,), "{0} // {k}", lambda a, k: a // k),
    Step(INT, (INT,), "{0} % {k}", lambda a, k: a % k, (5, 19)),
    Step(INT, (INT,), "abs({0})", abs),
    Step(INT, (INT,), "{0} ** 2", lambda a: a**2),
    Step(INT, (INT,), "{0} if {0} > {k} else {k} - {0}", lambda a, k: a if a > k else k - a),
    Step(INT, (INT,), _DIGITS, _digits),
    Step(NUMBERS, (INT,), _HALVES, _halves, (2, 3)),
    Step(STR, (INT,), "str({0})", str),
    # lists of numbers
    Step(INT, (NUMBERS,), "sum({0})", sum),
    Step(INT, (NUMBERS,), "len({0})", len),
    Step(INT, (NUMBERS,), "max({0}, default=0)", lambda xs: max(xs, default=0)),
    Step(INT, (NUMBERS,), "min({0}, default=0)", lambda xs: min(xs, default=0)),
    Step(INT, (NUMBERS, INT), "{0}.count({1})", lambda xs, v: xs.count(v)),
    Step(INT, (NUMBERS,), "sum(v for v in {0} if v > {k})", lambda xs, k: sum(v for v in xs if v > k)),
    Step(INT, (NUMBERS,), _RISES, _rises),
    Step(INT, (NUMBERS,), _ALTERNATE, _alternate),
    Step(NUMBERS, (NUMBERS,), "sorted({0})", sorted),
    Step(NUMBERS, (NUMBERS,), "sorted({0}, key=abs)", lambda xs: sorted(xs, key=abs)),
    Step(NUMBERS, (NUMBERS,), "{0}[::-1]", lambda xs: xs[::-1]),
    Step(NUMBERS, (NUMBERS,), "{0}[{k}:]", lambda xs, k: xs[k:], (1, 2)),
    Step(NUMBERS, (NUMBERS,), "{0}[:{k}]", lambda xs, k: xs[:k], (2, 3)),
    Step(NUMBERS, (NUMBERS,), "{0}[::2]", lambda xs: xs[::2]),
    Step(NUMBERS, (NUMBERS,), "list(dict.fromkeys({0}))", _unique),
    Step(NUMBERS, (NUMBERS,), "[v + {k} for v in {0}]", lambda xs, k: [v + k for v in xs]),
    Step(NUMBERS, (NUMBERS,), "[v * {k} for v in {0}]", lambda xs, k: [v * k for v in xs]),
    Step(NUMBERS, (NUMBERS,), "[v % {k} for v in {0}]", lambda xs, k: [v % k for v in xs]),
    Step(NUMBERS, (NUMBERS,), "[v for v in {0} if v > {k}]", lambda xs, k: [v for v in xs if v > k]),
    Step(NUMBERS, (NUMBERS,), "[v for v in {0} if v % {k} == 0]", lambda xs, k: [v for v in xs if v % k == 0], (2, 3)),
    Step(NUMBERS, (NUMBERS,), "[i * v for i, v in enumerate({0})]", lambda xs: [i * v for i, v in enumerate(xs)]),
    Step(NUMBERS, (NUMBERS, INT), "[v - {1} for v in {0}]", lambda xs, n: [v - n for v in xs]),
    Step(NUMBERS, (NUMBERS, INT), "[v for v in {0} if v < {1}]", lambda xs, n: [v for v in xs if v < n]),
    Step(NUMBERS, (NUMBERS, NUMBERS), "{0} + {1}", lambda xs, ys: xs + ys),
    Step(NUMBERS, (NUMBERS, NUMBERS), "[v for v in {0} if v not in {1}]", lambda a, b: [v for v in a if v not in b]),
    Step(
        NUMBERS,
        (NUMBERS, NUMBERS),
        "[v * w for v, w in zip({0}, {1})]",
        lambda xs, ys: [v * w for v, w in zip(xs, ys, strict=False)],
    ),
    Step(NUMBERS, (NUMBERS,), _RUNNING, lambda xs: list(accumulate(xs))),
    # texts
    Step(INT, (STR,), "len({0})", len),
    Step(INT, (STR,), "len(set({0}))", lambda s: len(set(s))),
    Step(NUMBERS, (STR,), "[ord(c) - {k} for c in {0}]", lambda s, k: [ord(c) - k for c in s], (60, 97)),
    Step(STR, (STR,), "{0}[::-1]", lambda s: s[::-1]),
    Step(STR, (STR,), "{0}.upper()", str.upper),
    Step(STR, (STR,), "{0}.lower()", str.lower),
    Step(STR, (STR,), "{0}.swapcase()", str.swapcase),
    Step(STR, (STR,), "{0}[{k}:]", lambda s, k: s[k:], (1, 2)),
    Step(STR, (STR,), "{0} * {k}", lambda s, k: s * k, (2, 3)),
    Step(STR, (STR,), "''.join(sorted({0}))", lambda s: "".join(sorted(s))),
    Step(STR, (STR,), "{0}.replace('a', 'xy')", lambda s: s.replace("a", "xy")),
    Step(STR, (STR,), "{0}.strip('abx')", lambda s: s.strip("abx")),
    Step(STR, (STR, STR), "{0} + {1}", lambda a, b: a + b),
    Step(STR, (STR, STR), "''.join((c for c in {0} if c in {1}))", lambda a, b: "".join(c for c in a if c in b)),
    Step(STR, (STR, INT), "{0} + str({1})", lambda s, n: s + str(n)),
    Step(STR, (STR,), _SQUEEZE, lambda s: "".join(_unique(s))),
    Step(WORDS, (STR,), "{0}.split('x')", lambda s: s.split("x")),
    Step(DICT, (STR,), "{{c: {0}.count(c) for c in {0}}}", _counts),
    # lists of words
    Step(INT, (WORDS,), "sum((len(w) for w in {0}))", lambda ws: sum(map(len, ws))),
    Step(NUMBERS, (WORDS,), "[len(w) for w in {0}]", lambda ws: [len(w) for w in ws]),
    Step(NUMBERS, (WORDS, STR), "[w.count({1}) for w in {0}]", lambda ws, s: [w.count(s) for w in ws]),
    Step(STR, (WORDS,), "''.join({0})", "".join),
    Step(STR, (WORDS,), "'-'.join({0})", "-".join),
    Step(STR, (WORDS,), "''.join((w[:1] for w in {0}))", lambda ws: "".join(w[:1] for w in ws)),
    Step(STR, (WORDS,), _LONGEST, lambda ws: max(ws, key=len, default="")),
    Step(WORDS, (WORDS,), "sorted({0})", sorted),
    Step(WORDS, (WORDS,), "sorted({0}, key=len)", lambda ws: sorted(ws, key=len)),
    Step(WORDS, (WORDS,), "[w[::-1] for w in {0}]", lambda ws: [w[::-1] for w in ws]),
    Step(WORDS, (WORDS,), "[w.upper() for w in {0}]", lambda ws: [w.upper() for w in ws]),
    Step(WORDS, (WORDS,), "[w for w in {0} if len(w) > {k}]", lambda ws, k: [w for w in ws if len(w) > k], (1, 2)),
    Step(WORDS, (WORDS, STR), "[w + {1} for w in {0}]", lambda ws, s: [w + s for w in ws]),
    Step(WORDS, (WORDS, WORDS), "[w for w in {0} if w not in {1}]", lambda ws, us: [w for w in ws if w not in us]),
    Step(DICT, (WORDS,), "{{w: len(w) for w in {0}}}", lambda ws: {w: len(w) for w in ws}),
    Step(DICT, (WORDS,), _COUNTS, _counts),
    Step(DICT, (WORDS, NUMBERS), "dict(zip({0}, {1}))", lambda ws, xs: dict(zip(ws, xs, strict=False))),
    # dicts
    Step(INT, (DICT,), "sum({0}.values())", lambda d: sum(d.values())),
    Step(INT, (DICT, STR), "{0}.get({1}, {k})", lambda d, s, k: d.get(s, k)),
    Step(NUMBERS, (DICT,), "list({0}.values())", lambda d: list(d.values())),
    Step(WORDS, (DICT,), "list({0})", list),
    Step(WORDS, (DICT,), "[w for w, v in {0}.items() if v > {k}]", lambda d, k: [w for w, v in d.items() if v > k]),
    Step(WORDS, (DICT,), "sorted({0}, key={0}.get)", lambda d: sorted(d, key=d.__getitem__)),
    Step(DICT, (DICT,), "{{w: v + {k} for w, v in {0}.items()}}", lambda d, k: {w: v + k for w, v in d.items()}),
    Step(DICT, (DICT,), "{{w: v for w, v in {0}.items() if v > {k}}}", lambda d, k: {w: d[w] for w in d if d[w] > k}),
    Step(DICT, (DICT, INT), "{{w: v * {1} for w, v in {0}.items()}}", lambda d, n: {w: v * n for w, v in d.items()}),
    Step(DICT, (DICT, DICT), "{{**{0}, **{1}}}", lambda a, b: {**a, **b}),
)  # fmt: skip
