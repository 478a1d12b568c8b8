"""Flags over the config tree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfplay import flags
from selfplay.config import Run
from selfplay.errors import UserError
from selfplay.tree import build, merge, plain


def value(*argv: str, field: str) -> object:
    table, positional = flags.parse(argv)
    assert positional == []
    for part in field.split("."):
        table = table[part]
    return table


@pytest.mark.parametrize(
    ("argv", "field", "expected"),
    [
        (["--update.learning-rate", "3e-4"], "update.learning_rate", 3e-4),
        (["--update.learning_rate=3e-4"], "update.learning_rate", 3e-4),
        (["--propose.invalid", "-0.5"], "propose.invalid", -0.5),
        (["--schedule.max-tokens", "1e6"], "schedule.max_tokens", 1_000_000),
        (["--schedule.max-tokens", "none"], "schedule.max_tokens", None),
        (["--cluster.actors", "auto"], "cluster.actors", "auto"),
        (["--cluster.actors", "3"], "cluster.actors", 3),
        (["--roles.propose.trainable", "False"], "roles.propose.trainable", False),
        (["--envs.chain.difficulties", "1", "2", "3"], "envs.chain.difficulties", [1, 2, 3]),
        (["--envs.chain.difficulties", "1,2,3"], "envs.chain.difficulties", [1, 2, 3]),
        (["--envs.chain.difficulties", "--seed", "1"], "envs.chain.difficulties", []),
        (["--roles.solve.credit.key", "env", "task"], "roles.solve.credit.key", ["env", "task"]),
        (["--propose.band", "0.1", "0.9"], "propose.band", [0.1, 0.9]),
        (["--envs.chain.options.form", "words"], "envs.chain.options.form", "words"),
        (["--envs.chain.options.modulus", "7"], "envs.chain.options.modulus", 7),
        (["--acquire.mix.procedural", "1"], "acquire.mix.procedural", 1.0),
        (["--policies.main.model", "some-folder"], "policies.main.model", "some-folder"),
    ],
)
def test_a_flag_is_read_by_the_type_of_its_field(argv: list[str], field: str, expected: object) -> None:
    got = value(*argv, field=field)
    assert got == expected and type(got) is type(expected)


def test_the_key_of_a_scratch_environment_may_hold_dots() -> None:
    table, _ = flags.parse(["--envs.my.module:Env.weight", "2", "--envs.my.module:Env.options.size", "3"])
    assert table == {"envs": {"my.module:Env": {"weight": 2.0, "options": {"size": 3}}}}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--update.lr", "1"], "unknown field update.lr: did you mean .*update.learning_rate"),
        (["--updte.learning-rate", "1"], "unknown field updte.learning_rate: did you mean update.learning_rate"),
        (["--acquire.mix.nothing", "1"], "unknown field acquire.mix.nothing"),
        (["--update", "1"], "unknown field update"),
        (["--seed"], "--seed needs a value: a whole number"),
        (["--envs.chain.difficulties", "1", "two"], "must be a list of: a whole number, got '1 two'"),
        (["--propose.band", "0.1"], "propose.band must be a list of 2"),
    ],
)
def test_a_bad_flag_is_one_line(argv: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        flags.parse(argv)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["2.5", "x", "", "1e400", "nan", "--"])
def test_a_text_of_another_type_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="seed must be a whole number"):
        build(Run, merge(plain(Run()), flags.parse([f"--seed={text}"])[0]))


@given(st.integers(0, 2**31 - 1), st.floats(1e-12, 1e3), st.lists(st.integers(1, 9), max_size=4))
def test_what_is_written_is_read(seed: int, rate: float, sizes: list[int]) -> None:
    argv = ["--seed", str(seed), "--update.learning-rate", repr(rate), "--envs.chain.difficulties", *map(str, sizes)]
    run = build(Run, merge(plain(Run()), flags.parse(argv)[0]))
    assert (run.seed, run.update.learning_rate, run.envs["chain"].difficulties) == (seed, rate, tuple(sizes))


def test_help_shows_the_docstring_of_a_field(capsys) -> None:
    flags.show_help(Run(), prog="selfplay train quickstart", description="")
    text = capsys.readouterr().out
    assert "--update.learning-rate" in text and "Adam's step size after warm-up." in text
