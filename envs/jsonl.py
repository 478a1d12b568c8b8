"""`jsonl`: a person's own file of questions, one JSON object a line.

{"prompt": "Capital of France?", "answer": "Paris"}
{"prompt": "2.5 * 4 =", "answer": 10, "match": "number", "difficulty": 2, "split": "test"}
{"prompt": "Which is bigger: A) 3 or B) 5?", "answer": "B", "match": "choice", "choices": ["A", "B"]}
"""

from __future__ import annotations

import random
import re
import string
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec

from envs import options
from envs.answers import answer_part, last_match, last_number
from envs.base import (
    SPLITS,
    EnvSpec,
    EnvUserError,
    Message,
    SingleTurn,
    Split,
    Task,
    Verdict,
    digest,
    split_of,
    stable_seed,
)

Match = Literal["exact", "number", "choice"]
"""exact: the same text, whatever the spaces. number: the last number. choice: the last label that stands by itself."""

SHAPE = (
    'a line is {"prompt": text, "answer": text or number} and may add "match" (exact, number, choice), '
    '"choices" (texts), "split" (train, dev, test), "difficulty" (1, 2, ...)'
)

OK, WRONG, UNPARSED = Verdict(1.0, "ok"), Verdict(0.0, "wrong"), Verdict(0.0, "unparsed")


class Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line as it is written; anything else in it is refused."""

    prompt: Annotated[str, msgspec.Meta(min_length=1)]
    answer: str | int | float
    match: Match | None = None
    """None = the file's default."""
    choices: tuple[Annotated[str, msgspec.Meta(min_length=1)], ...] = ()
    """Labels of a choice; none given = the capital letters."""
    split: Split | None = None
    """None = by a hash of the prompt."""
    difficulty: Annotated[int, msgspec.Meta(ge=1)] = 1


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One question, checked and with every default filled in."""

    line: int
    prompt: str
    content: str
    """The prompt with single spaces."""
    family: str
    """The same, case-folded; splits are disjoint by it."""
    answer: str
    match: Match
    choices: tuple[str, ...]
    split: Split
    difficulty: int


class Jsonl(SingleTurn):
    """Questions from a file. The answer is read from the last <answer> tag, or from the whole text without one.

    Args:
      path: the file, UTF-8.
      match: the rule for the lines that name none: "exact", "number" or "choice".
      max_new_tokens: room for an answer; None = four times the longest answer of the file, at least 256.
    """

    def __init__(self, *, path: str, match: str = "exact", max_new_tokens: int | None = None) -> None:
        default = options.one_of("jsonl", "match", match, get_args(Match))
        if not isinstance(path, str) or not path:
            raise EnvUserError(f"jsonl: option path must be the name of a file, got {path!r}")
        rows, version = read_file(Path(path), default)
        self.path = path
        self._rows: dict[Split, list[Row]] = {s: [row for row in rows if row.split == s] for s in SPLITS}
        self._orders: dict[tuple[Split, int, int | None], list[Row]] = {}
        if max_new_tokens is None:
            max_new_tokens = max(256, 4 * max(len(row.answer) for row in rows))
        self.spec = EnvSpec(
            name="jsonl",
            version=version,
            difficulties=tuple(sorted({row.difficulty for row in rows})),
            splits=tuple(s for s in SPLITS if self._rows[s]),
            max_new_tokens=options.whole("jsonl", "max_new_tokens", max_new_tokens, least=1, most=1 << 20),
            summary="your own file of prompts, answers and match rules (option path)",
        )

    def size(self, split: Split) -> int:
        """Number of tasks in a split; `task` goes round again beyond it."""
        return len(self._rows[split])

    def task(
        self, split: Split, index: int, seed: int, *, mode: str | None = None, difficulty: int | None = None
    ) -> Task:
        """The task at a place: the seed shuffles the split, the index counts through it, round and round."""
        mode, difficulty = options.place(self.spec, split, index, mode, difficulty)
        rows = self._order(split, seed, difficulty)
        row = rows[index % len(rows)]
        return Task(
            env="jsonl",
            env_version=self.spec.version,
            split=split,
            seed=stable_seed("jsonl", split, index, seed, mode),
            index=index,
            mode=mode,
            difficulty=row.difficulty,
            prompt=(Message("user", row.prompt),),
            payload={"answer": row.answer, "match": row.match, "choices": list(row.choices)},
            content=row.content,
            family=row.family,
            origin="dataset",
        )

    def parse(self, task: Task, text: str) -> str | Fraction | None:
        return read_answer(task.payload["match"], tuple(task.payload["choices"]), text)

    def verify(self, task: Task, text: str) -> Verdict:
        answer = self.parse(task, text)
        if answer is None:
            return UNPARSED
        return OK if answer == self.parse(task, task.payload["answer"]) else WRONG

    def gold(self, task: Task) -> str:
        return str(task.payload["answer"])

    def _order(self, split: Split, seed: int, difficulty: int | None) -> list[Row]:
        """The rows of a split and difficulty in the order that the seed gives; kept, for the next index."""
        place = (split, seed, difficulty)
        if place not in self._orders:
            rows = [row for row in self._rows[split] if difficulty in (None, row.difficulty)]
            if not rows:
                raise EnvUserError(f"jsonl: {self.path} has no {split} line of difficulty {difficulty}")
            random.Random(stable_seed("jsonl", split, seed)).shuffle(rows)
            if len(self._orders) >= 64:
                self._orders.clear()
            self._orders[place] = rows
        return self._orders[place]


def read_answer(match: Match, choices: tuple[str, ...], text: str) -> str | Fraction | None:
    """The answer in a text under a match rule, or None."""
    part = answer_part(text)
    if match == "number":
        return last_number(part)
    if match == "exact":
        return " ".join(part.split()) or None
    last = last_match(_labels(choices), part)
    return last.group() if last else None


@lru_cache(maxsize=256)
def _labels(choices: tuple[str, ...]) -> re.Pattern[str]:
    labels = sorted(choices or string.ascii_uppercase, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, labels))})(?!\w)")


def read_file(path: Path, match: Match) -> tuple[list[Row], str]:
    """All questions of a file, and the version that its bytes give the environment.

    Blank lines are passed over, and a line that repeats an earlier one is taken once.

    Raises:
      EnvUserError: naming the file, the line and what was expected.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EnvUserError(f"jsonl: cannot read {path}: {error.strerror or error}") from error
    rows: list[Row] = []
    families: dict[str, Row] = {}
    contents: dict[str, Row] = {}
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not raw.strip():
            continue
        where = f"jsonl: {path} line {number}"
        row = _row(_line(raw, where), number, match, where)
        alike = families.setdefault(row.family, row)
        if alike.split != row.split:
            raise EnvUserError(
                f"{where}: held-out tasks leaking into train: "
                f"the prompt of line {alike.line} is in {alike.split}, here it is in {row.split}"
            )
        same = contents.setdefault(row.content, row)
        if same is row:
            rows.append(row)
        elif (same.answer, same.match, same.choices) != (row.answer, row.match, row.choices):
            raise EnvUserError(f"{where}: the prompt of line {same.line} again, with another answer or match")
    if not rows:
        raise EnvUserError(f"jsonl: {path} holds no line")
    return rows, f"1-{digest(data.decode('utf-8'))[:8]}"


def _line(raw: bytes, where: str) -> Line:
    try:
        raw.decode("utf-8")
        return msgspec.json.decode(raw, type=Line)
    except UnicodeDecodeError:
        raise EnvUserError(f"{where}: not UTF-8 text") from None
    except msgspec.ValidationError as error:
        raise EnvUserError(f"{where}: {error}; {SHAPE}") from None
    except msgspec.DecodeError as error:
        raise EnvUserError(f"{where}: {error}") from None
    except RecursionError:
        raise EnvUserError(f"{where}: nested too deeply") from None


def _row(line: Line, number: int, default: Match, where: str) -> Row:
    content = " ".join(line.prompt.split())
    if not content:
        raise EnvUserError(f"{where}: the prompt is blank")
    match = line.match or default
    if line.choices and match != "choice":
        raise EnvUserError(f"{where}: choices are given, but match is {match!r}")
    family = content.casefold()
    answer = _text(line.answer)
    if not _is_own_answer(match, line.choices, answer):
        raise EnvUserError(f"{where}: answer {answer[:60]!r} is not one that match {match!r} can find")
    return Row(
        line=number,
        prompt=line.prompt,
        content=content,
        family=family,
        answer=answer,
        match=match,
        choices=line.choices,
        split=line.split or split_of("jsonl", family),
        difficulty=line.difficulty,
    )


def _text(answer: str | float) -> str:
    """A JSON number in plain decimals, without an exponent."""
    return format(Decimal(repr(answer)), "f") if isinstance(answer, float) else str(answer).strip()


def _is_own_answer(match: Match, choices: tuple[str, ...], answer: str) -> bool:
    """The reference answer, read by its own rule, gives itself back: nothing in it is passed over."""
    found: Any = read_answer(match, choices, answer)
    if match == "number":
        return found is not None and re.fullmatch(r"[-\N{MINUS SIGN}]?[0-9.,/]+", answer) is not None
    return bool(found == " ".join(answer.split()) and found)
