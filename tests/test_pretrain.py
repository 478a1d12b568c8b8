"""Pretraining: the same bits from the same seed, only train families, a loss on the answers alone, and it falls."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from itertools import islice
from pathlib import Path

import jax
import numpy as np
import pytest

from envs.base import Rejection, split_of
from envs.chain import Chain
from envs.chain_rules import family_text, normal_form
from envs.dsl import Dsl
from selfplay.errors import UserError
from selfplay.models import init_params, load, printable_ascii
from selfplay.pretrain import (
    BLOCK,
    Pretrain,
    Source,
    batches,
    examples,
    nll,
    passed,
    pretrain,
    pretrain_command,
    read_settings,
)
from selfplay.streams import Stream, stream_key

TINY = Pretrain(
    layers=1, width=16, heads=2, kv_heads=1, inner=16, max_positions=256, steps=30, rows=2, row_tokens=48,
    learning_rate=1e-2, warmup_steps=5,
    sources={"chain": Source(options={"digits": [2, 3]}, difficulties={"1": 0.7, "2": 0.3}, proposals=0.3)},
)  # fmt: skip
TOKENIZER = printable_ascii()


def texts(config: Pretrain, count: int) -> list[tuple[str, str]]:
    """(prompt, answer) of the first examples."""
    found = islice(examples(config, TOKENIZER), count)
    return [(TOKENIZER.decode(ids[:n]), TOKENIZER.decode(ids[n:])) for ids, n in found]


def test_examples_are_of_train_families_alone_and_right() -> None:
    env = Chain(digits=[2, 3])
    solved = proposed = 0
    for prompt, answer in texts(TINY, 400):
        problem = answer if prompt == "?" else prompt.removesuffix("=")
        found = env.form.read_problem(problem)
        assert found is not None, problem
        state, program = found
        assert split_of("chain", family_text(state, normal_form(program, len(state), 10), 10)) == "train"
        task = env.admit("solve", problem, (), 0)
        assert not isinstance(task, Rejection)
        if prompt == "?":
            proposed += 1
        else:
            solved += 1
            assert env.verify(task, answer).status == "ok"
    assert proposed / (solved + proposed) == pytest.approx(0.3, abs=0.08)


def test_difficulties_follow_their_weights() -> None:
    config = replace(TINY, sources={"chain": replace(TINY.sources["chain"], propose_difficulties={"3": 1.0})})
    lengths: dict[bool, list[int]] = {True: [], False: []}
    for prompt, answer in texts(config, 400):
        problem = answer if prompt == "?" else prompt.removesuffix("=")
        lengths[prompt == "?"].append(len(problem.lstrip("0123456789")))
    assert set(lengths[True]) == {3} and set(lengths[False]) == {1, 2}
    assert np.mean(np.array(lengths[False]) == 1) == pytest.approx(0.7, abs=0.08)


def test_passes_repeat_blocks_in_other_orders() -> None:
    stream = [(np.zeros(1, np.int32), n) for n in range(BLOCK + 10)]
    assert list(passed(iter(stream), 1, 0)) == stream
    order = [n for _, n in passed(iter(stream), 3, 0)]
    thrice = [order[i * BLOCK : (i + 1) * BLOCK] for i in range(3)]
    assert all(sorted(one) == list(range(BLOCK)) for one in thrice)
    assert len({tuple(one) for one in thrice}) == 3
    assert sorted(order[3 * BLOCK :]) == sorted([*range(BLOCK, BLOCK + 10)] * 3)
    assert order == [n for _, n in passed(iter(stream), 3, 0)] != [n for _, n in passed(iter(stream), 3, 1)]


def test_modes_come_in_turn_and_asks_show_up_to_as_many_tasks_as_said() -> None:
    """Every example is read back by the environment: the answer is right, the proposal is admitted."""
    dsl = Source(modes=("deduce", "abduce", "induce"), difficulties={"1": 0.5, "2": 0.5}, proposals=0.4, shown=2)
    config = replace(TINY, row_tokens=200, sources={"dsl": replace(dsl, options={"operators": "core"})})
    env, modes, shown = Dsl(operators="core"), {"D": "deduce", "A": "abduce", "I": "induce"}, []
    solved = dict.fromkeys("=@?", 0)  # how the prompts of deduce, abduce and induce end
    for prompt, answer in texts(config, 300):
        if prompt[0] in modes:
            earlier = prompt[1:].split("?")[:-1] if prompt[1:] != "?" else []
            shown.append(len(earlier))
            for offer in (answer, *earlier):
                assert not isinstance(env.admit(modes[prompt[0]], offer, (), 0), Rejection), (prompt, answer)
        else:
            solved[prompt[-1]] += 1
            if prompt[-1] == "=":
                task = env.admit("deduce", prompt[:-1], (), 0)
                assert not isinstance(task, Rejection) and env.verify(task, answer).status == "ok"
    assert set(shown) == {0, 1, 2} and len(shown) / 300 == pytest.approx(0.4, abs=0.08)
    assert min(solved.values()) > 40


def test_only_answers_and_their_end_are_learnt() -> None:
    stream = examples(TINY, TOKENIZER)
    for batch in islice(batches(TINY, TOKENIZER), 3):
        assert batch["ids"].shape == batch["targets"].shape == (TINY.rows, TINY.row_tokens)
        for row in range(TINY.rows):
            start = 0
            for segment in range(1, batch["segments"][row].max() + 1):
                ids, prompt = next(stream)
                place = slice(start, start + len(ids))
                np.testing.assert_array_equal(batch["ids"][row, place], ids)
                np.testing.assert_array_equal(batch["positions"][row, place], np.arange(len(ids)))
                np.testing.assert_array_equal(batch["segments"][row, place], segment)
                expected = np.full(len(ids), -1)
                expected[prompt - 1 : -1] = ids[prompt:]  # each predicted from the token before it
                np.testing.assert_array_equal(batch["targets"][row, place], expected)
                assert ids[-1] == TOKENIZER.eos_id
                start += len(ids)
            assert (batch["segments"][row, start:] == 0).all() and (batch["targets"][row, start:] == -1).all()


def test_same_seed_same_bits_and_the_loss_falls() -> None:
    config, params, tokenizer, cost = pretrain(TINY, log=lambda line: None)
    again = pretrain(TINY, log=lambda line: None)[1]
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    fresh = init_params(config, stream_key(TINY.seed, Stream.INIT))
    batch = next(batches(replace(TINY, seed=5), tokenizer))  # not what it was trained on
    before, after = float(nll(config, fresh, batch)), float(nll(config, params, batch))
    assert before == pytest.approx(np.log(128), rel=0.1) and after < 0.8 * before
    assert cost["parameters"] == sum(x.size for x in jax.tree.leaves(params))
    assert 0 < cost["tokens"] <= TINY.steps * TINY.rows * TINY.row_tokens
    assert cost["flops"] == 6 * cost["parameters"] * cost["tokens"]


def test_another_seed_gives_other_examples() -> None:
    assert texts(TINY, 20) == texts(TINY, 20) != texts(replace(TINY, seed=1), 20)


def test_the_command_writes_a_model_that_loads_with_its_card_and_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("selfplay.pretrain.held_out_scores", lambda config, folder, params: "| scores |")
    settings = tmp_path / "tiny.toml"
    settings.write_text(
        "layers = 1\nwidth = 16\nheads = 2\nkv_heads = 1\ninner = 16\n"
        "steps = 9\nrows = 2\nrow_tokens = 48\nwarmup_steps = 1\n"
        "[sources.chain]\noptions = { digits = [2, 3] }\nproposals = 0.3\n[sources.chain.difficulties]\n1 = 1.0\n"
    )
    out = tmp_path / "model"
    pretrain_command(settings, out, seed=4, steps=3)
    assert load(out).config.layers == 1 and "| scores |" in (out / "README.md").read_text()
    kept = read_settings(out / "pretrain.toml", {})
    assert (kept.seed, kept.steps, kept.width) == (4, 3, 16)
    assert tomllib.loads((out / "pretrain.toml").read_text())["sources"]["chain"]["options"] == {"digits": [2, 3]}
    with pytest.raises(UserError, match="never a replacement"):
        pretrain_command(settings, out)


BAD = {
    "no sources": ({"sources": {}}, "no sources"),
    "steps": ({"steps": 0}, "steps must be >= 1, got 0"),
    "warm-up": ({"steps": 5}, "warmup_steps must be in 0..steps - 1, got 5 of 5"),
    "width": ({"width": 17}, "width must be a multiple of heads"),
    "rows too short": ({"row_tokens": 8}, "more than row_tokens = 8"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_refused(case: str) -> None:
    fields, message = BAD[case]
    with pytest.raises(UserError, match=message):
        pretrain(replace(TINY, **fields), log=lambda line: None)  # type: ignore[arg-type]


def test_unreadable_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not readable as TOML"):
        read_settings(tmp_path / "nowhere.toml", {})
    (tmp_path / "bad.toml").write_text("layers = ")
    with pytest.raises(UserError, match="not readable as TOML"):
        read_settings(tmp_path / "bad.toml", {})
