"""Comparisons at equal tokens: interpolation, pairing and intervals worked by hand, and every refusal."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selfplay import compare as compare_module
from selfplay.cli import main
from selfplay.compare import Finished, at_budget, compare, group_runs, noisy, paired, read_run, row_names, with_means
from selfplay.config import Run, Schedule, Update
from selfplay.errors import UserError
from selfplay.recipe import to_toml

Curve = list[tuple[int, float, float]]
"""Tokens, pass@1 at difficulty 1, pass@1 at difficulty 2: one a generation."""


def write_run(folder: Path, curve: Curve, *, tasks: int = 1000, **config: Any) -> Path:
    """A run folder as a finished run of one environment leaves it."""
    folder.mkdir(parents=True)
    config.setdefault("schedule", Schedule(generations=max(len(curve) - 1, 1)))
    (folder / "config.toml").write_text(to_toml(Run(**config)))
    with (folder / "metrics.jsonl").open("w") as file:
        for generation, (tokens, easy, hard) in enumerate(curve):
            record = {"kind": "generation", "generation": generation, "step": 10 * generation, "tokens": tokens}
            for difficulty, score in ((1, easy), (2, hard)):
                record[f"eval/test/chain/{difficulty}/pass@1"] = score
                record[f"eval/test/chain/{difficulty}/tasks"] = tasks
            file.write(json.dumps(record) + "\n")
    return folder


def test_scores_at_a_budget_are_interpolated_by_hand(tmp_path):
    run = read_run(write_run(tmp_path / "a", [(0, 0.5, 0.1), (100, 0.7, 0.2), (300, 0.9, 0.6)]))
    np.testing.assert_allclose(at_budget(run, 0), [0.5, 0.1])
    np.testing.assert_allclose(at_budget(run, 150), [0.75, 0.3])  # a quarter of the way from 100 to 300
    np.testing.assert_allclose(at_budget(run, 300), [0.9, 0.6])


def test_means_over_difficulty_stand_behind_the_difficulties():
    tests = (("chain", 1), ("chain", 2), ("sums", 5))
    assert row_names(tests) == ["chain 1", "chain 2", "sums 5", "chain mean", "sums mean"]
    np.testing.assert_allclose(with_means(np.array([0.2, 0.4, 0.9]), tests), [0.2, 0.4, 0.9, 0.3, 0.9])


def test_task_noise_has_the_binomial_variance_of_both_evaluations(tmp_path):
    # Half way: 1/2 of each evaluation, so the variance is (p q / n + p' q' / n') / 4.
    run = read_run(write_run(tmp_path / "a", [(0, 0.5, 0.0), (100, 0.8, 1.0)], tasks=50))
    drawn = noisy(run, 50, 40_000, np.random.default_rng(1))
    assert drawn.shape == (40_000, 2)
    np.testing.assert_allclose(drawn.mean(0), [0.65, 0.5], atol=0.002)
    np.testing.assert_allclose(drawn.var(0), [(0.25 + 0.16) / 50 / 4, 0.0], rtol=0.03)


def test_pairs_are_by_seed_at_the_smallest_total_or_fewer_tokens(tmp_path, capsys):
    def group(name, runs):
        return [
            write_run(tmp_path / f"{name}{s}", [(0, 0.5, 0.1), (total, 0.5, end)], recipe=name, seed=s)
            for s, total, end in runs
        ]

    ours = group("quickstart", [(0, 200, 0.5), (1, 200, 0.7), (2, 200, 0.9)])
    control = group("rlvr", [(0, 100, 0.2), (1, 100, 0.2), (7, 100, 0.9)])
    groups = group_runs([read_run(r) for r in ours + control])
    # At 100 tokens ours stand half way: .3 and .4 for seeds 0 and 1; the controls at .2. Seeds 2 and 7 have no partner.
    difference = paired(groups["quickstart"], groups["rlvr"], 100)
    assert difference.seeds == (0, 1)
    np.testing.assert_allclose(difference.each, [[0, 0.1, 0.05], [0, 0.2, 0.1]], atol=1e-12)
    assert difference.low[1] > 0.05 and difference.high[1] < 0.25
    assert difference.low[0] < 0 < difference.high[0]

    text = compare(ours + control, tmp_path / "out")
    assert text == (tmp_path / "out" / "compare.md").read_text()
    assert "at 100 sampled tokens" in text
    assert "| chain 2 | 0.100 | 0.400 (0.300 0.400 0.500) | 0.433 (0.200 0.200 0.900) |" in text
    assert re.search(r"\| chain 2 \| \+0\.150 \(\+0\.100 \+0\.200\) \| \+0\.\d+ to \+0\.\d+ \| ahead \|", text)
    assert re.search(r"\| chain 1 \| .* \| open \|", text)
    assert "want of a partner: seeds 2, 7." in text
    assert "no per-task results" in text
    assert (tmp_path / "out" / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert compare(ours + control) == text, "the same draws every time"
    half = compare(ours + control, tokens=50)
    assert "at 50 sampled tokens (all roles), asked for." in half
    assert "| chain 2 | 0.100 | 0.250 (0.200 0.250 0.300) |" in half  # a quarter of the way to .5, .7, .9
    named = [str(run) for run in ours + control]
    for flags, told in ([], text), (["--tokens", "50"], half):
        assert main(["compare", *named, "--out", str(tmp_path / "said"), *flags]) == 0
        assert capsys.readouterr().out == told + "\n"
    for tokens in (0, 101):
        with pytest.raises(UserError, match=f"--tokens must be from 1 to 100, the total of .*rlvr0, got {tokens}"):
            compare(ours + control, tokens=tokens)


def in_memory(seed: int, score: float, tasks: int) -> Finished:
    """A run whose one test goes from .5 to a score in 100 tokens."""
    return Finished(
        folder=Path("run"), recipe="any", seed=seed, fields={}, tests=(("chain", 1),),
        tokens=np.array([0.0, 100.0]), scores=np.array([[0.5], [score]]), counts=np.full((2, 1), tasks),
    )  # fmt: skip


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    # 5 pairs whose true difference is .1, in 100 worlds. A percentile interval over 5 seeds alone would be too
    # narrow (about 83 %); redrawing the tasks, whose noise is in the scores already, makes up for it.
    rng, held = np.random.default_rng(0), 0
    for _ in range(100):
        a, b = (
            {s: in_memory(s, rng.binomial(200, rng.normal(mean, 0.02)) / 200, 200) for s in range(5)}
            for mean in (0.6, 0.5)
        )
        difference = paired(a, b, 100, draws=400)
        held += difference.low[0] <= 0.1 <= difference.high[0]
    assert 90 <= held <= 100


def test_one_pair_says_what_its_interval_lacks(tmp_path):
    runs = [write_run(tmp_path / r, [(0, 0.5, 0.1), (100, 0.6, 0.2)], recipe=r) for r in ("quickstart", "rlvr")]
    assert "not that of training" in compare(runs)


def test_groups_without_a_common_seed_have_no_difference(tmp_path):
    curve: Curve = [(0, 0.5, 0.1), (100, 0.6, 0.2)]
    runs = [write_run(tmp_path / "a", curve, seed=1), write_run(tmp_path / "b", curve, recipe="rlvr", seed=2)]
    assert "No seed in common" in compare(runs, tmp_path / "out")
    assert (tmp_path / "out" / "compare.png").exists()


def test_another_learning_rate_is_another_group_named_after_it(tmp_path):
    curve: Curve = [(0, 0.5, 0.1), (100, 0.6, 0.2)]
    slow = write_run(tmp_path / "slow", curve)
    fast = write_run(tmp_path / "fast", curve, update=Update(learning_rate=3e-4))
    assert list(group_runs([read_run(slow), read_run(fast)])) == [
        "quickstart",
        "quickstart (update.learning_rate=0.0003)",
    ]


def test_a_run_without_task_counts_uses_the_planned_ones(tmp_path):
    folder = write_run(tmp_path / "a", [(0, 0.5, 0.1), (50, 0.5, 0.1), (100, 0.6, 0.2)])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    bare = [{k: v for k, v in r.items() if not k.endswith("/tasks")} for r in lines]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in bare))
    np.testing.assert_array_equal(read_run(folder).counts, [[1024, 1024], [128, 128], [1024, 1024]])


def test_generations_without_evaluation_are_passed_over(tmp_path):
    folder = write_run(tmp_path / "a", [(0, 0.5, 0.1), (50, float("nan"), float("nan")), (100, 0.6, 0.3)])
    text = (folder / "metrics.jsonl").read_text().replace("NaN", "null")
    (folder / "metrics.jsonl").write_text(text)
    run = read_run(folder)
    np.testing.assert_array_equal(run.tokens, [0, 100])
    np.testing.assert_allclose(at_budget(run, 50), [0.55, 0.2])


def test_token_and_time_limits_also_end_a_run(tmp_path):
    curve: Curve = [(0, 0.5, 0.1), (100, 0.6, 0.2)]
    assert read_run(write_run(tmp_path / "a", curve, schedule=Schedule(generations=9, max_tokens=100))).seed == 0
    timed = write_run(tmp_path / "b", curve, schedule=Schedule(generations=9, max_minutes=2))
    with pytest.raises(UserError, match="unfinished"):
        read_run(timed)
    last = json.loads((timed / "metrics.jsonl").read_text().splitlines()[-1])
    with (timed / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(last | {"generation": 2, "tokens": 200, "progress/minutes": 2.1}) + "\n")
    assert read_run(timed).tokens[-1] == 200


def test_what_cannot_be_compared_is_refused_in_one_line(tmp_path):
    curve: Curve = [(0, 0.5, 0.1), (100, 0.6, 0.2)]
    good = write_run(tmp_path / "good", curve)
    (tmp_path / "empty").mkdir()
    short = write_run(tmp_path / "short", curve, schedule=Schedule(generations=4))
    begun = write_run(tmp_path / "begun", [], schedule=Schedule(generations=4))
    twin = write_run(tmp_path / "twin", curve)
    blind = write_run(tmp_path / "blind", curve, recipe="rlvr")
    (blind / "metrics.jsonl").write_text((blind / "metrics.jsonl").read_text().replace("eval/test", "eval/dev"))
    other = write_run(tmp_path / "other", curve, recipe="rlvr")
    (other / "metrics.jsonl").write_text((other / "metrics.jsonl").read_text().replace("chain/2", "chain/3"))
    for runs, said in [
        ([], "at least one run"),
        ([tmp_path / "nowhere"], "nowhere is no run folder"),
        ([tmp_path / "empty"], "empty is no run folder: it has no config.toml"),
        ([good, short], "short is unfinished: generation 1 of 4"),
        ([good, begun], "begun is unfinished: it has no generation yet"),
        ([good, twin], "twin and .*good are both quickstart with seed 0"),
        ([good, blind], "blind lacks the test scores"),
        ([good, other], "other and .*good are not measured on the same tests"),
    ]:
        with pytest.raises(UserError, match=said) as caught:
            compare(runs, tmp_path / "out")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="is a file"):
        compare([good], good / "config.toml")


def test_without_matplotlib_the_table_still_comes(tmp_path, monkeypatch):
    runs = [write_run(tmp_path / r, [(0, 0.5, 0.1), (100, 0.6, 0.2)], recipe=r) for r in ("quickstart", "rlvr")]
    monkeypatch.setattr(compare_module, "find_spec", lambda name: None)
    text = compare(runs, tmp_path / "out")
    assert "selfplay[plot]" in text
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["compare.md"]
