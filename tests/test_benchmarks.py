"""Every benchmark runs at tiny sizes and says what it promises; what it counts is right by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import jax
import numpy as np
import pytest

from benchmarks import machine, rollout, rollout_mixed, sandbox, step, update, update_grouped, work
from benchmarks.__main__ import COMMANDS, main
from benchmarks.machine import Machine
from benchmarks.subject import BENCH_TINY, Subject
from envs.sandbox import Sandbox
from selfplay.errors import SelfplayError, UserError
from selfplay.models import ModelConfig, init_params, printable_ascii
from selfplay.models.decoder import abstract_params

CONFIG = ModelConfig(
    family="qwen3", vocab_size=128, hidden_size=16, layers=1, heads=2, kv_heads=1, head_dim=8, intermediate_size=32,
    qk_norm=True, tie_embeddings=True, max_positions=64, eos_ids=(2,), bos_id=1,
)  # fmt: skip
SUBJECT = Subject(CONFIG, init_params(CONFIG, jax.random.key(0)), printable_ascii(), "float32")
ROWS = {"micro_rows": 4, "row_tokens": 32, "logit_chunk": 16, "devices": 1}
GROUPED = {"tasks": 2, "group": 2, "prompt_tokens": 16, "new_tokens": 8}

CASES = {
    "rollout": (
        lambda **o: rollout.run(SUBJECT, batch=2, prompt_tokens=8, new_tokens=8, devices=2, **o),
        ("tokens_per_s", "fraction_of_roofline", "fraction_of_gemm_floor"),
    ),
    "rollout-mixed": (
        lambda **o: rollout_mixed.run(SUBJECT, **GROUPED | {"new_tokens": 32}, mean_tokens=8, slots=0, devices=1, **o),
        ("tokens_per_s", "occupancy"),
    ),
    "update": (
        lambda **o: update.run(SUBJECT, sequences=4, tokens=24, **ROWS | {"devices": 2}, **o),
        ("tokens_per_s", "flop_fraction", "peak_bytes"),
    ),
    "update-grouped": (
        lambda **o: update_grouped.run(SUBJECT, **GROUPED, **ROWS, **o),
        ("tokens_per_s", "flop_fraction", "peak_bytes"),
    ),
    "step": (
        lambda **o: step.run(SUBJECT, **GROUPED, **ROWS | {"devices": 2}, **o),
        ("s_per_step", "sample_s", "verify_s", "update_s", "publish_s", "peak_bytes"),
    ),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The machine is measured on small arrays here."""
    monkeypatch.setattr(machine, "READ_BYTES", 1 << 20)
    monkeypatch.setattr(machine, "SIDE", 64)


@pytest.mark.parametrize("name", CASES)
def test_a_benchmark_says_what_it_promises(name):
    run, promised = CASES[name]
    found = json.loads(json.dumps(run(repeats=2)))
    for figure in promised:
        values = found[figure].values() if isinstance(found[figure], dict) else [found[figure]]
        assert all(math.isfinite(v) and v > 0 for v in values), (figure, found[figure])
    assert found.get("occupancy", {"max": 1})["max"] <= 1
    assert set(CASES) == set(COMMANDS)


def test_devices_that_do_not_share_the_rows_evenly_are_refused():
    with pytest.raises(UserError, match=r"--devices 3: 8 rows .* do not divide"):
        rollout.run(SUBJECT, batch=2, prompt_tokens=8, new_tokens=8, devices=3, repeats=1)


def test_the_sandbox_is_measured_by_tier():
    found = json.loads(json.dumps(sandbox.run("unsafe", runs=6, workers=2, repeats=2)))
    assert found["strongest"] == "unsafe" and not found["refused"] and set(found["tiers"]) == {"unsafe"}
    figures = found["tiers"]["unsafe"]
    assert all(0 < v < 1e5 for name, f in figures.items() if name != "processor_ms_per_run" for v in f.values())
    assert figures["own_p50_ms"]["max"] < figures["call_p50_ms"]["max"] <= figures["call_p95_ms"]["max"]


def test_a_wrong_value_is_no_speed(monkeypatch):
    monkeypatch.setattr(sandbox, "PROGRAM", "def f(words):\n    return len(words)")
    with Sandbox(1, tier="unsafe") as box, pytest.raises(SelfplayError, match="a run gave ok: 4; expected {"):
        sandbox.measure(box, 2, 1)


def test_weights_are_counted_as_they_are():
    for config in (CONFIG, BENCH_TINY, replace(CONFIG, tie_embeddings=False)):
        sizes = [x.size for x in jax.tree.leaves(abstract_params(config)) if x.ndim > 1]
        tied = config.vocab_size * config.hidden_size  # an embedding is read row by row, not multiplied with
        assert work.body_weights(config) + work.head_weights(config) == sum(sizes) - (not config.tie_embeddings) * tied
    assert round(sum(x.size for x in jax.tree.leaves(abstract_params(BENCH_TINY))) / 1e5) == 33


def test_the_roofline_by_hand():
    # D = V = F = 2, one head of 2: q, k, v, o are 4 weights each, the MLP 12, the output matrix 4: 28 + 4.
    config = ModelConfig(
        family="llama", vocab_size=2, hidden_size=2, layers=1, heads=1, kv_heads=1, head_dim=2, intermediate_size=2
    )
    assert work.forward_flops(config, 3, 0, 2, logits=3) == 3 * (2 * 28 * 2 + 4 * 2 * (1 + 2)) + 2 * 4 * 3  # 432
    # Reading 32 weights of 4 bytes takes 128 s at 1 byte/s. One step at position 2 of 3 rows: 3 tokens seen, keys and
    # values of 2 numbers: 3 * 3 * 16 = 144 bytes more. FLOPs: 3 * (56 + 24 + 8) = 264.
    slow_reader, slow_thinker = Machine(1.0, 1e9), Machine(1e9, 1.0)
    sizes = {"rows": 3, "prompt": 2, "new": 2, "itemsize": 4}
    assert work.rollout_seconds(config, slow_reader, **sizes) == 128 + 128 + 144
    assert work.rollout_seconds(config, slow_thinker, **sizes) == 432 + 264
    # A window of 2 lets the last token see 2 positions of 3.
    near = replace(config, sliding_layers=(0,), sliding_window=2)
    assert work.rollout_seconds(near, slow_reader, **sizes) == 128 + 128 + 96
    # Two attempts at one prompt of two tokens: it is computed once.
    once = work.forward_flops(config, 1, 0, 2, logits=0)
    later = work.forward_flops(config, 2, 2, 3, logits=2)
    assert update_grouped.grouped_flops(config, 1, 2, 2, 1) == once + later


def test_ends_give_the_mean_length_that_was_asked():
    texts = np.random.default_rng(1).integers(0, 100, (200, 64))
    chosen = rollout_mixed.ends(texts, 10)
    hit = np.isin(texts, chosen)
    lengths = np.where(hit.any(1), hit.argmax(1) + 1, 64)
    assert 9.8 <= lengths.mean() <= 11


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["rolout"], "unknown benchmark 'rolout'; did you mean"),
        (["rollout", "--batch", "0"], "--batch must be >= 1, got 0"),
        (["rollout", "--batch", "x"], "--batch: invalid int value: 'x'"),
        (["step", "--model", "nowhere"], "--model 'nowhere': no such folder"),
        (["update", "--threads", "999999"], "--threads 999999: this machine gives the process"),
        (["sandbox", "--runs", "0"], "--runs must be >= 1, got 0"),
        (["sandbox", "--tier", "Z"], "invalid choice: 'Z'"),
        (["memory", "--axis", "up"], "invalid choice: 'up'"),
    ],
)
def test_bad_input_is_one_line(args, said, capsys):
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and said in err
