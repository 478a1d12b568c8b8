from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from selfplay.models import printable_ascii

TOKENIZER = printable_ascii()


def test_one_id_a_character():
    assert TOKENIZER.encode("\n ~").tolist() == [4, 5, 99]
    assert TOKENIZER.prompt(" ").tolist() == [1, 5]
    assert (TOKENIZER.vocab_size, TOKENIZER.pad_id, TOKENIZER.bos_id, TOKENIZER.eos_id) == (100, 0, 1, 2)


def test_special_and_unused_ids_decode_to_nothing():
    assert TOKENIZER.decode([1, 70, 0, 3, 71, 2, 127]) == "ab"


def test_the_name_of_a_special_token_is_plain_text_unless_asked():
    assert TOKENIZER.encode("<eos>").tolist() == TOKENIZER.encode("<").tolist() + TOKENIZER.encode("eos>").tolist()
    assert TOKENIZER.encode("<eos>", special=True).tolist() == [2]
    assert TOKENIZER.decode(TOKENIZER.encode("<eos>")) == "<eos>"


def test_an_empty_prompt_is_the_beginning():
    assert TOKENIZER.prompt("").tolist() == [1]
    assert TOKENIZER.encode("").dtype == np.int32


@given(st.text(st.characters(exclude_categories=[]), max_size=40))
def test_encoding_is_total(text):
    ids = TOKENIZER.encode(text)
    assert ids.dtype == np.int32 and (ids < 100).all()


@given(st.text([chr(c) for c in range(32, 127)] + ["\n"], max_size=40))
def test_printable_text_comes_back(text):
    ids = TOKENIZER.encode(text)
    assert len(ids) == len(text)
    assert TOKENIZER.decode(ids) == text
