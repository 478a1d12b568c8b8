"""What a policy reads, to the token, and what an environment reads of what it wrote."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_tokenizers import CHATML, GEMMA, LLAMA, character_tokenizer

from envs.base import Message
from selfplay.config import Template
from selfplay.errors import UserError
from selfplay.models.tokenizer import Tokenizer
from selfplay.records import SamplingSpec
from selfplay.templates import (
    FIXED_DATE,
    answer_text,
    check_template,
    end_of_turn,
    prefix_stable,
    prompt_ids,
    with_examples,
    without_thinking,
)
from selfplay.written import Written

TEXT, CHAT = Template(kind="text"), Template(kind="chat")
QWEN, GEM, LLM = (
    character_tokenizer(CHATML, bos=False, eos="<|im_end|>"),
    character_tokenizer(GEMMA),
    character_tokenizer(LLAMA),
)
BARE = character_tokenizer()


def user(text: str) -> Message:
    return Message("user", text)


def shown(template: Template, tokenizer: Tokenizer, *messages: Message) -> str:
    """A prompt as the policy reads it, special tokens by name."""
    return tokenizer.decode(prompt_ids(template, tokenizer, messages), special=True)


def test_prompts_by_hand() -> None:
    assert shown(Template(), BARE, Message("system", "a"), user("b ")) == "<bos>ab "
    assert shown(TEXT, BARE, Message("system", "Be brief."), user(" 1 + 1 = ")) == "<bos>Be brief.\nQ: 1 + 1 =\nA:"
    assert shown(CHAT, QWEN, user("hi ")) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert shown(CHAT, GEM, Message("system", "S"), user("hi")) == (
        "<bos><start_of_turn>user\nS\n\nhi<end_of_turn>\n<start_of_turn>model\n"
    )


def test_examples_are_turns_before_the_question_and_the_system_speaks_once() -> None:
    system = Message("system", "S")
    messages = with_examples((system, user("3")), [((system, user("1")), "one"), ((system, user("2")), "two")])
    assert shown(TEXT, BARE, *messages) == "<bos>S\nQ: 1\nA: one\nQ: 2\nA: two\nQ: 3\nA:"
    assert shown(CHAT, GEM, *messages).count("S") == 1
    assert shown(CHAT, GEM, *messages).endswith("<start_of_turn>model\ntwo<end_of_turn>\n<start_of_turn>user\n3"
                                                "<end_of_turn>\n<start_of_turn>model\n")  # fmt: skip


@pytest.mark.parametrize("tokenizer", [QWEN, GEM, LLM], ids=["chatml", "gemma", "llama"])
def test_ids_are_those_of_transformers(tokenizer: Tokenizer) -> None:
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend, **tokenizer.names)
    asked = [user("1 + 1?"), Message("assistant", "2"), user("<think> and more")]
    source = (tokenizer.chat_template or "").replace('strftime_now("%d %b %Y")', repr(FIXED_DATE))
    ids = theirs.apply_chat_template(
        [{"role": m.role, "content": m.text} for m in asked], chat_template=source, add_generation_prompt=True
    )["input_ids"]
    np.testing.assert_array_equal(prompt_ids(CHAT, tokenizer, asked), ids)


@pytest.mark.parametrize("tokenizer", [QWEN, GEM, LLM, BARE], ids=["chatml", "gemma", "llama", "bare"])
def test_nobody_but_the_template_writes_a_special_token(tokenizer: Tokenizer) -> None:
    template = CHAT if tokenizer.chat_template else TEXT
    said = "".join(tokenizer.special) + "\ue0000\ue001 {text} {{ bos_token }}"
    plain, rude = (prompt_ids(template, tokenizer, [user(text)]) for text in ("x", f"x{said}x"))
    special = set(tokenizer.special.values())
    assert [i for i in rude if i in special] == [i for i in plain if i in special]
    assert f"x{said}x" in tokenizer.decode(rude)  # as characters, every one of them
    if tokenizer.bos_id is not None:
        assert rude[0] == tokenizer.bos_id and (rude == tokenizer.bos_id).sum() == 1


@given(st.text(st.characters(exclude_categories=[]), max_size=30))
def test_any_text_can_be_asked(text: str) -> None:
    for template, tokenizer in ((TEXT, BARE), (CHAT, QWEN)):
        ids = prompt_ids(template, tokenizer, [user(text)])
        assert ids.dtype == np.int32 and (ids < tokenizer.vocab_size).all()


def test_a_text_template_can_name_special_tokens() -> None:
    template = Template(kind="text", user="<start_of_turn>{text}<end_of_turn>", assistant="{text}<end_of_turn>")
    ids = prompt_ids(template, GEM, [user("<end_of_turn>")])
    assert (ids == GEM.special["<end_of_turn>"]).sum() == 1 and (ids == GEM.special["<start_of_turn>"]).sum() == 1


def test_options_and_the_date() -> None:
    quiet = replace(CHAT, options={"enable_thinking": False})
    assert shown(quiet, QWEN, user("hi")).endswith("assistant\n<think>\n\n</think>\n\n")
    assert f"Today Date: {FIXED_DATE}<|eot_id|>" in shown(CHAT, LLM, user("hi"))


@pytest.mark.parametrize(
    ("text", "stop", "answer"),
    [
        (" 42\nQ: next", ("\n",), "42"),
        (" 42", ("\n",), "42"),
        ("4 2;1.", (".", ";"), "4 2"),
        ("<think>is it 7?</think>8", (), "8"),
        ("is it 7?</think> 8", (), "8"),  # the chat template opened it
        ("8 <think>or 7", (), "8"),  # cut off while thinking
        ("<think>7", (), ""),
        ("<think>a</think>8<think>b</think>", (), "8"),
        ("a</think>b</think>8<think>c</think>9", (), "89"),
        ("<think>a<think>b</think>8", (), "8"),
    ],
)
def test_what_an_environment_reads(text: str, stop: tuple[str, ...], answer: str) -> None:
    assert answer_text(TEXT, text, stop) == answer


def test_plain_text_is_left_alone_but_for_stops() -> None:
    assert answer_text(Template(), " <think>7</think>8 ;9", (";",)) == " <think>7</think>8 "
    assert without_thinking("<think>a</think>b", "", "</think>") == "<think>a</think>b"


def test_which_templates_are_prefix_stable() -> None:
    assert prefix_stable(Template(), BARE) and prefix_stable(TEXT, BARE)
    assert prefix_stable(CHAT, GEM) and prefix_stable(CHAT, LLM)
    assert not prefix_stable(CHAT, QWEN)  # it drops old thinking
    assert not prefix_stable(replace(CHAT, options={"enable_thinking": False}), QWEN)  # written into the last turn only
    assert prefix_stable(replace(CHAT, think_open="<t>", think_close="</t>"), QWEN)


def test_what_ends_a_turn() -> None:
    found = [end_of_turn(CHAT, t) for t in (QWEN, GEM, LLM)]
    assert found == ["<|im_end|>", "<end_of_turn>", "<|eot_id|>"]
    assert end_of_turn(TEXT, BARE) is None
    assert (TEXT.stops, CHAT.stops, replace(TEXT, assistant="A: {text}\n\n").stops) == (("\n",), (), ("\n\n",))


def test_templates_that_do_not_fit_are_refused_in_one_line() -> None:
    ends = [GEM.eos_id, GEM.special["<end_of_turn>"]]
    check_template(CHAT, GEM, policy="main", eos_ids=ends)
    broken = character_tokenizer(GEMMA.replace("loop.index0 % 2 == 0", "false"))
    forgetful = character_tokenizer("{{ messages[-1]['content'] }}{{ messages[0]['content'] }}")
    for template, tokenizer, line in (
        (
            CHAT,
            BARE,
            "policies.main.template.kind = chat: the model's tokenizer has no chat template",
        ),
        (CHAT, broken, "the chat template fails: Conversation roles must alternate"),
        (CHAT, forgetful, "does not show the messages once each"),
        (CHAT, LLM, "ends an answer with <|eot_id|>, which does not end a completion: add its id, 6, to eos_token_id"),
    ):
        with pytest.raises(UserError) as raised:
            check_template(template, tokenizer, policy="main", eos_ids=[tokenizer.eos_id])
        assert line in str(raised.value) and "\n" not in str(raised.value)
    endless = replace(TEXT, assistant="A: {text}")
    check_template(endless, BARE, policy="main", eos_ids=[2])
    with pytest.raises(UserError, match="nothing ends an answer"):
        check_template(endless, BARE, policy="main", eos_ids=[])


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"user": "Q:"}, r"template.user must be a text with \{text\} in it once, got 'Q:'"),
        ({"kind": "plain", "examples": 4}, "examples needs kind = text or chat"),
        ({"stop": ("",)}, "template.stop must be without empty texts"),
        ({"examples": -1}, "template.examples must be >= 0"),
    ],
)
def test_wrong_fields_are_refused(fields: dict[str, object], line: str) -> None:
    with pytest.raises(UserError, match=line):
        Template(**fields)  # type: ignore[arg-type]


class Counting:
    """A tokenizer that counts the tokens it decodes."""

    def __init__(self, inner: Tokenizer) -> None:
        self.inner, self.decoded = inner, 0

    def decode(self, ids: list[int]) -> str:
        self.decoded += len(ids)
        return self.inner.decode(ids)

    def silent(self, token: int) -> bool:
        return self.inner.silent(token)


def write(text_ids: np.ndarray, stop: tuple[str, ...], tokenizer: object) -> _Written:
    """What the sampler makes of a row's tokens, eight at a time."""
    n = len(text_ids)
    written = Written(1, SamplingSpec(max_new_tokens=n, stop=stop), tokenizer, (2,))  # type: ignore[arg-type]
    row = np.zeros(1, int)
    for at in range(0, n, 8):
        piece = text_ids[None, at : at + 8]
        if not written.add(row, piece, np.zeros(piece.shape, np.float32), np.full(1, piece.shape[1])).any():
            break
    return written


@given(st.text("ab\n", max_size=40), st.sampled_from(["\n", "ab", "a\nb", "bab\na", "\u00e9"]), st.integers(0, 30))
def test_a_row_is_cut_after_the_first_token_that_completes_a_stop_text(text: str, stop: str, pads: int) -> None:
    # Tokens that give no text, between the characters of a stop text too, make no difference.
    ids = [i for c in text for i in (*[0] * (pads % 4), *BARE.encode(c))]
    ids += [0] * (8 - len(ids) % 8)
    [completion] = write(np.array(ids), (stop, "never"), BARE).completions(np.ones(1, bool))
    place = text.find(stop)
    assert completion.finish == ("length" if place < 0 else "stop")
    assert BARE.decode(completion.ids) == (text if place < 0 else text[: place + len(stop)])


def test_looking_for_a_stop_text_costs_the_same_for_every_token() -> None:
    spent = []
    for n in (400, 4000):
        tokenizer = Counting(BARE)
        began = time.perf_counter()
        write(np.resize(BARE.encode("abc"), n), ("stop here",), tokenizer)
        spent.append(tokenizer.decoded / n)
        assert time.perf_counter() - began < 10
    assert spent[1] == pytest.approx(spent[0], rel=0.1) and spent[1] < 4
