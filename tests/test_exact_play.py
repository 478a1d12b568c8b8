"""What some weights do in every information state of Kuhn poker, against sums of their own probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

import envs
from selfplay import game_tree
from selfplay.config import Template
from selfplay.exact_play import ExactPlay, is_exact
from selfplay.models import Model, load
from selfplay.records import SamplingSpec, Trajectory


@pytest.fixture(scope="module")
def model() -> Model:
    return load("tiny")


def log_of(chances: dict[str, float], model: Model, asked: list[str] | None = None):  # type: ignore[no-untyped-def]
    """Log-probabilities by what was read and written, character by character; 1/4 for an end token."""

    def logprobs(questions: Sequence[Trajectory]) -> list[np.ndarray]:
        out = []
        for q in questions:
            text = model.tokenizer.decode(q.ids, special=True)
            if asked is not None:
                asked.append(text)
            row = np.zeros(len(q.ids))
            for place in np.flatnonzero(q.mask):
                written = model.tokenizer.decode(q.ids[place : place + 1])
                row[place] = np.log(chances[written] if written else 0.25)
            out.append(row)
        return out

    return logprobs


def test_moves_of_one_token(model: Model) -> None:
    exact = ExactPlay(envs.make("kuhn"), model, Template(), SamplingSpec(max_new_tokens=1))  # type: ignore[arg-type]
    asked: list[str] = []
    table = exact.table(log_of({"p": 0.5, "b": 0.4}, model, asked))
    assert len(table) == 12 and "<bos>Kpbb" in asked and "<bos>Jbp" in asked
    for row in table.values():
        np.testing.assert_allclose(row, [0.5, 0.4, 0.1])
    values = exact.curves(log_of({"p": 0.5, "b": 0.4}, model))
    assert values["illegal_mass"] == pytest.approx(0.1) and values["illegal_mass_max"] == pytest.approx(0.1)
    assert values["nash_conv_average"] == values["nash_conv"]  # before the first step there is but one policy
    exact.average.add(table)
    uniform = exact.table(log_of({"p": 0.5, "b": 0.5}, model))
    exact.average.add(uniform)
    values = exact.curves(log_of({"p": 0.5, "b": 0.5}, model))
    assert values["nash_conv"] == pytest.approx(11 / 12) and values["value"] == pytest.approx(1 / 8)
    mixed = game_tree.nash_conv(exact.tree, exact.average.table())
    assert values["nash_conv_average"] == mixed and mixed != values["nash_conv"]


def test_the_end_token_is_part_of_a_move(model: Model) -> None:
    exact = ExactPlay(envs.make("kuhn"), model, Template(), SamplingSpec(max_new_tokens=2))  # type: ignore[arg-type]
    asked: list[str] = []
    table = exact.table(log_of({"p": 0.5, "b": 0.4}, model, asked))
    assert "<bos>Kp<eos>bb<eos>" in asked  # what the seat wrote before has its end, too
    for row in table.values():
        np.testing.assert_allclose(row, [0.125, 0.1, 0.775])


def test_what_is_not_exact(model: Model) -> None:
    spec = SamplingSpec(max_new_tokens=1)
    assert is_exact(envs.make("kuhn"), model, Template(), spec)
    assert not is_exact(envs.make("kuhn", form="words"), model, Template(), spec)
    assert not is_exact(envs.make("kuhn", retries=1), model, Template(), spec)
    assert not is_exact(envs.make("kuhn"), model, Template(kind="text"), spec)
    assert not is_exact(envs.make("kuhn"), model, Template(), SamplingSpec(max_new_tokens=3))
    assert not is_exact(envs.make("tictactoe"), model, Template(), spec)
    assert not is_exact(envs.make("chain"), model, Template(), spec)


def held_logprobs(questions: Sequence[Trajectory]) -> list[np.ndarray]:
    """Every candidate alike."""
    out = []
    for q in questions:
        assert q.kept is not None and len(q.kept) == q.mask.sum()
        row = np.zeros(len(q.ids))
        row[q.mask] = -np.log((q.kept >= 0).sum(1))
        out.append(row)
    return out


@pytest.mark.parametrize(("form", "tokens"), [("compact", 1), ("compact", 2), ("words", 8)])
def test_seats_held_to_legal_moves_have_no_illegal_mass(model: Model, form: str, tokens: int) -> None:
    game, spec = envs.make("kuhn", form=form), SamplingSpec(max_new_tokens=tokens, constrain="legal")
    template = Template(kind="text") if form == "words" else Template()
    assert is_exact(game, model, template, spec)
    assert not is_exact(
        envs.make("kuhn", form="words"), model, template, SamplingSpec(max_new_tokens=3, constrain="legal")
    )
    exact = ExactPlay(game, model, template, spec)  # type: ignore[arg-type]
    values = exact.curves(held_logprobs)
    assert values["nash_conv"] == values["nash_conv_legal"] == pytest.approx(11 / 12)  # both moves alike
    assert values["illegal_mass"] == values["illegal_mass_max"] == 0 and values["value"] == pytest.approx(1 / 8)
