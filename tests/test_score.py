"""Log-probabilities of texts, and what the file of texts may not hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from selfplay import score as module
from selfplay.cli import main
from selfplay.models import load
from selfplay.score import score
from tests.models.shapes import GEMMA3, random_params
from tests.models.test_parity import logprobs


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "texts.jsonl"


@pytest.mark.parametrize("entries", [2**26, 8 * 128], ids=["one piece", "pieces of 8"])
def test_any_length_equals_one_forward_pass(entries, monkeypatch):
    # A window of 4, pieces of 8 positions, texts of unlike length, an empty one and one of a single token.
    monkeypatch.setattr(module, "LOGIT_ENTRIES", entries)
    config = replace(GEMMA3, layers=1)
    params = random_params(config)
    ids = [np.random.default_rng(n).integers(4, 100, n).astype(np.int32) for n in (0, 1, 2, 9, 17, 18, 29)]
    found = score(config, params, ids)
    assert [f.size for f in found] == [0, 0, 1, 8, 16, 17, 28]
    whole = np.zeros((len(ids), 29), np.int32)
    for row, text in enumerate(ids):
        whole[row, : text.size] = text
    for row, theirs in zip(found, np.asarray(logprobs(config, params, whole)), strict=True):
        np.testing.assert_allclose(row, theirs[: row.size], atol=2e-5)


def test_the_command_prints_one_object_a_line(file, capsys):
    file.write_text('"12+3"\n""\n"<eos>a\\nb"')
    assert main(["score", "tiny", str(file)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    model = load("tiny")
    ids = [[1, 22, 23, 16, 24], [1], [1, 2, 70, 4, 71]]  # <bos> in front, and <eos> is a token, as in transformers
    assert [line["ids"] for line in lines] == ids
    assert [len(line["logprobs"]) for line in lines] == [5, 1, 5] and all(x["logprobs"][0] is None for x in lines)
    expected = score(model.config, model.params, [np.asarray(ids[0], np.int32)])[0]
    np.testing.assert_allclose(lines[0]["logprobs"][1:], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'"a"\n{', "line 2: expected a JSON string"),
        (b'"a"\n\n"b"\n', "line 2: expected a JSON string"),
        (b'["a"]\n', "line 1: expected a JSON string, found list"),
        (b'"a"\n"\xff"\n', "line 2: expected a JSON string"),
        (b'"\\ud800"\n', "line 1: half a surrogate pair"),
        (b'"a"\n"' + 600 * b"x" + b'"\n', "line 2: 601 tokens, but the model has 512 positions"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_printed(content, message, file, capsys):
    file.write_bytes(content)
    assert main(["score", "tiny", str(file)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and f"{file}, {message}" in err and err.count("\n") == 1


def test_a_missing_file_or_model_is_one_line(file, capsys):
    assert main(["score", "tiny", str(file)]) == 2
    assert f"{file}: No such file" in capsys.readouterr().err
    file.write_text('"a"\n')
    assert main(["score", str(file.parent / "nowhere"), str(file)]) == 2
    assert "no such folder" in capsys.readouterr().err
