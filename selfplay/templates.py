"""How messages become the tokens that a policy reads, and what it wrote a text again. A template is data in the recipe.

A rendered prompt is a list of pieces, each known to be the template's own or a person's (an environment's, a model's).
Only the template's own pieces can name special tokens: nobody ends a turn by writing `<end_of_turn>` into a task.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from envs.base import Message
from selfplay.config import Template, TemplateKind
from selfplay.errors import UserError
from selfplay.models.tokenizer import Tokenizer

FIXED_DATE = "26 Jul 2024"
"""What a chat template that asks for today's date is told (Llama 3 falls back to it): bits never depend on the day."""


class Piece(NamedTuple):
    """A stretch of a prompt."""

    text: str
    ours: bool
    """Whether the template wrote it; else a person did."""


def plain(messages: Sequence[Message]) -> str:
    """The texts one after the other."""
    return "".join(m.text for m in messages)


def _plain(template: Template, tokenizer: Tokenizer, messages: Sequence[Message]) -> list[Piece]:
    return [Piece(plain(messages), False)]


def _text(template: Template, tokenizer: Tokenizer, messages: Sequence[Message]) -> list[Piece]:
    """Each message in its format, then the beginning of an answer.

    Spaces at the end of that beginning are left out: most tokenizers join a space with the word after it, so a model
    that is given the space alone has never seen how to go on.
    """
    pieces: list[Piece] = []
    for message in messages:
        before, _, after = {"system": template.system, "user": template.user, "assistant": template.assistant}[
            message.role
        ].partition("{text}")
        pieces += [Piece(before, True), Piece(message.text.strip(), False), Piece(after, True)]
    return [*pieces, Piece(template.assistant.partition("{text}")[0].rstrip(" "), True)]


def _chat(template: Template, tokenizer: Tokenizer, messages: Sequence[Message]) -> list[Piece]:
    """The chat template's text, rendered with numbered marks in place of the messages' own texts."""
    marked = [{"role": m.role, "content": f"\ue000{i}\ue001"} for i, m in enumerate(messages)]
    pieces = []
    for i, part in enumerate(re.split("\ue000([0-9]+)\ue001", _jinja(template, tokenizer, marked))):
        pieces.append(Piece(messages[int(part)].text.strip(), False) if i % 2 else Piece(part, True))
    return pieces


def _jinja(template: Template, tokenizer: Tokenizer, messages: list[dict[str, str]]) -> str:
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it misses PyTorch, we do not
    from transformers.utils.chat_template_utils import render_jinja_template  # late: it takes a second

    source = tokenizer.chat_template
    if source is None:
        raise UserError("the tokenizer has no chat template")
    if "strftime_now" in source:
        source = "{%- macro strftime_now(format) -%}" + FIXED_DATE + "{%- endmacro %}" + source
    given = tokenizer.names | dict(template.options)
    rendered: Any = render_jinja_template([messages], chat_template=source, add_generation_prompt=True, **given)
    return str(rendered[0][0])  # of (texts, generation indices); its annotation says otherwise


TEMPLATES: dict[TemplateKind, Callable[[Template, Tokenizer, Sequence[Message]], list[Piece]]] = {
    "plain": _plain,
    "text": _text,
    "chat": _chat,
}


def render(template: Template, tokenizer: Tokenizer, messages: Sequence[Message]) -> list[Piece]:
    """The prompt that asks for the answer to some messages, in pieces."""
    return TEMPLATES[template.kind](template, tokenizer, messages)


def prompt_ids(template: Template, tokenizer: Tokenizer, messages: Sequence[Message]) -> np.ndarray:
    """Ids [n] int32 of the prompt that asks for the answer to some messages, bos first where there is one."""
    return tokenizer.begin(encode(tokenizer, render(template, tokenizer, messages)))


def continue_ids(
    template: Template, tokenizer: Tokenizer, messages: Sequence[Message], *, written: str, eos: bool
) -> np.ndarray:
    """Ids [n] int32 to append to a context that ends with an answer: what closes it, new messages, and the beginning
    of the next answer.

    What a policy read and wrote is never rendered again. So this is what a template that is `prefix_stable` would
    write next, less the end of the turn where the answer holds it already.

    Args:
      written: the answer, decoded without special tokens.
      eos: whether the answer's last token is one that ends it.
    """
    if template.kind == "plain":
        pieces = render(template, tokenizer, messages)
    elif template.kind == "text":
        after = template.assistant.partition("{text}")[2]
        pieces = [Piece("" if after in written else after, True), *_text(template, tokenizer, messages)]
    else:
        pieces = render(template, tokenizer, (*_PROBE[:2], *messages))
        closing = [i for i, p in enumerate(pieces) if not p.ours][1] + 1
        mark = end_of_turn(template, tokenizer) if eos else None
        said = pieces[closing].text.lstrip().removeprefix(mark) if mark else pieces[closing].text
        pieces = [Piece(said, True), *pieces[closing + 1 :]]
    return encode(tokenizer, pieces)


def encode(tokenizer: Tokenizer, pieces: Sequence[Piece]) -> np.ndarray:
    """Ids [n] int32 of some pieces; only what is ours can name a special token.

    A tokenizer first cuts a text at its special tokens and then encodes what lies between, so cutting only at ours
    gives the ids of the whole text, wherever nobody else wrote such a name.
    """
    out: list[np.ndarray] = []
    stretch = ""
    for text, special in _cut(tokenizer, pieces):
        if special:
            out += [tokenizer.encode(stretch), np.asarray([tokenizer.special[text]], np.int32)]
        stretch = "" if special else stretch + text
    return np.concatenate([*out, tokenizer.encode(stretch)])


def _cut(tokenizer: Tokenizer, pieces: Sequence[Piece]) -> Iterator[tuple[str, bool]]:
    """The texts of some pieces, ours cut at special tokens; True = the name of such a token."""
    for piece in pieces:
        parts = tokenizer.special_pattern.split(piece.text) if piece.ours else [piece.text]
        yield from ((part, bool(i % 2)) for i, part in enumerate(parts))


def with_examples(messages: Sequence[Message], examples: Sequence[tuple[Sequence[Message], str]]) -> list[Message]:
    """Messages with solved examples before them; what the system says stays first, and is said once.

    Args:
      examples: (messages, answer) of each.
    """
    shown = [
        message
        for asked, answer in examples
        for message in (*(m for m in asked if m.role != "system"), Message("assistant", answer))
    ]
    system = [m for m in messages if m.role == "system"]
    return [*system, *shown, *(m for m in messages if m.role != "system")]


# ---------------------------------------------------------------- what was written


def answer_text(template: Template, text: str, stop: Sequence[str]) -> str:
    """What an environment reads of a completion: nothing from the first stop text on, and no thinking.

    Thinking that never ended takes all that follows with it; an end without a beginning (the chat template wrote it)
    takes all before it.
    """
    places = [place for s in stop if (place := text.find(s)) >= 0]
    text = text[: min(places, default=len(text))]
    if template.kind == "plain":
        return text
    return without_thinking(text, template.think_open, template.think_close).strip()


def without_thinking(text: str, opened: str, closed: str) -> str:
    """A text without its marked stretches; the empty text as a mark leaves it as it is."""
    if not opened or not closed:
        return text
    kept: list[str] = []
    *ended, last = text.split(closed)
    for part in ended:
        said, begun, _ = part.partition(opened)
        kept = [*kept, said] if begun else []
    return "".join([*kept, last.partition(opened)[0]])


# ---------------------------------------------------------------- does it fit?

_PROBE = (Message("user", "1 + 1"), Message("assistant", "2"), Message("user", "2 + 2"))


def check_template(template: Template, tokenizer: Tokenizer, *, policy: str, eos_ids: Sequence[int]) -> None:
    """Refuse a template that does not fit its tokenizer, or whose answers could not end.

    Args:
      eos_ids: the tokens that end a completion of the model.

    Raises:
      UserError: with the field, and what to do.
    """
    field = f"policies.{policy}.template"
    if template.kind == "text" and not template.stops and not eos_ids:
        raise UserError(f"{field}: nothing ends an answer: set stop, or put text after {{text}} in assistant")
    if template.kind != "chat":
        return
    if tokenizer.chat_template is None:
        raise UserError(f"{field}.kind = chat: the model's tokenizer has no chat template; valid here: plain, text")
    try:
        for count in (1, 3):
            pieces = render(template, tokenizer, _PROBE[:count])
            if [p.text for p in pieces if not p.ours] != [m.text for m in _PROBE[:count]]:
                raise UserError(f"{field}: the chat template does not show the messages once each, in their order")
    except _template_error() as error:
        raise UserError(f"{field}: the chat template fails: {' '.join(str(error).split())}") from error
    mark = end_of_turn(template, tokenizer)
    if mark is not None and tokenizer.special[mark] not in eos_ids:
        raise UserError(
            f"{field}: the chat template ends an answer with {mark}, which does not end a completion: add its id, "
            f"{tokenizer.special[mark]}, to eos_token_id in the model's generation_config.json"
        )


def _template_error() -> type[Exception]:
    from jinja2 import TemplateError  # what a template itself raises comes as this too

    return TemplateError


def end_of_turn(template: Template, tokenizer: Tokenizer) -> str | None:
    """The special token that a template writes right after an answer, if it does."""
    pieces = render(template, tokenizer, _PROBE)
    after = next(i for i, p in enumerate(pieces) if not p.ours and p.text == _PROBE[1].text) + 1
    first = next((text for text, special in _cut(tokenizer, pieces[after : after + 1]) if special), None)
    return first if first is not None and pieces[after].text.lstrip().startswith(first) else None


def prefix_stable(template: Template, tokenizer: Tokenizer) -> bool:
    """Whether a second turn only appends to the first: the prompt and the answer stay as the policy saw and wrote them.

    Multi-turn play needs it, since a context is continued and never rendered again. Chat templates that drop old
    thinking, or write something into the last turn alone, do not have it.
    """
    asked, _, asked_again = _PROBE
    answer = f"{template.think_open}1{template.think_close}2" if template.kind == "chat" else "2"

    def whole(*messages: Message) -> str:
        if template.kind == "chat":
            return _jinja(template, tokenizer, [{"role": m.role, "content": m.text} for m in messages])
        return "".join(p.text for p in render(template, tokenizer, messages))

    first, both = whole(asked), whole(asked, Message("assistant", answer), asked_again)
    return both.startswith(first) and both[len(first) :].lstrip(" ").startswith(answer)
