"""Recipes: precedence, inheritance, round trips, and what a resume may change."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from selfplay import recipe
from selfplay.config import Run
from selfplay.errors import UserError
from selfplay.models.hf import EMBEDDED
from selfplay.tree import leaf_paths, plain

ALL = (
    "quickstart",
    "quickstart-frozen",
    "quickstart-ppo",
    "azr",
    "azr-frozen",
    "azr-python",
    "azr-released",
    "expert-iteration",
    "fixed-opponent",
    "league",
    "memory",
    "ppo-tictactoe",
    "pretrained",
    "rlvr",
    "rlvr-band",
    "rzero",
    "soc",
    "spin",
    "spiral",
    "spiral-no-rae",
    "star",
    "yoked",
)


def flat(table: dict, path: str = "") -> dict:
    out = {}
    for name, value in table.items():
        here = f"{path}.{name}" if path else name
        out |= flat(value, here) if isinstance(value, dict) else {here: value}
    return out


def difference(name: str) -> set[str]:
    """Fields in which a recipe's run differs from quickstart's."""
    a, b = flat(plain(recipe.resolve("quickstart"))), flat(plain(recipe.example(name)))
    return {k for k in a.keys() | b.keys() if a.get(k) != b.get(k)} - {"recipe"}


def write(folder: Path, text: str, name: str = "mine.toml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.mark.parametrize("name", ALL)
def test_every_recipe_resolves_round_trips_and_has_what_it_needs(name: str, tmp_path: Path) -> None:
    assert name in recipe.names()
    loaded = recipe.load(name)
    assert loaded.summary and loaded.paper
    run = recipe.example(name)
    assert run.recipe == name
    path = tmp_path / "config.toml"
    path.write_text(recipe.to_toml(run))
    assert recipe.from_toml(path) == run
    assert recipe.to_toml(recipe.from_toml(path)) == recipe.to_toml(run)
    recipe.check_envs(run)


def test_names_lists_the_recipes_and_no_other() -> None:
    assert recipe.names() == ALL


def test_controls_differ_in_the_fewest_fields() -> None:
    mix = {"acquire.mix.propose", "acquire.mix.procedural"}
    assert difference("quickstart-frozen") == {"roles.propose.trainable"}
    assert difference("rlvr") == mix | {"objective.follow"}
    assert difference("rlvr-band") == mix | {"objective.follow"}
    assert difference("yoked") == {"acquire.mix.propose", "acquire.mix.yoked", "acquire.yoked_run"}
    assert difference("expert-iteration") == mix | {
        "objective.follow",
        "update.loss",
        "update.filter",
        "roles.solve.credit.centre",
    }
    azr = flat(plain(recipe.resolve("azr")))
    changed = {
        name: {k for k, v in flat(plain(recipe.resolve(name))).items() if azr.get(k) != v} - {"recipe"}
        for name in ("azr-frozen", "azr-released")
    }
    assert changed["azr-frozen"] == {"roles.propose.trainable"}
    pays = {"propose.pay_at_zero", "propose.pay_at_one"}
    assert changed["azr-released"] == pays | {"propose.repeat_penalty", "update.clip_eps_high", "update.kl.place"}
    centres = {"roles.propose.credit.centre", "roles.solve.credit.centre"}
    assert difference("quickstart-ppo") == centres | {"update.critic.kind"}


def test_a_control_replaces_the_mix_of_its_base() -> None:
    assert recipe.resolve("rlvr").acquire.mix == {"procedural": 1.0}


def test_precedence_is_default_then_recipe_then_flags(tmp_path: Path) -> None:
    mine = write(tmp_path, 'base = "quickstart"\n[update]\nlearning_rate = 2e-4\nminibatches = 4\n')
    run = recipe.resolve(mine, ["--update.minibatches", "1"])
    assert run.recipe == "mine"
    assert run.update.learning_rate == 2e-4  # the recipe's
    assert run.update.minibatches == 1  # the flag's
    assert run.update.clip_eps_high == 0.28  # the base's
    assert run.archive == Run().archive  # the default


def test_naming_environments_replaces_those_of_the_base(tmp_path: Path) -> None:
    run = recipe.resolve(write(tmp_path, 'base = "quickstart"\n[envs.sums]\nweight = 2\n'))
    assert set(run.envs) == {"sums"} and run.envs["sums"].weight == 2.0


def test_a_base_may_lie_beside_the_recipe_but_has_no_base_itself(tmp_path: Path) -> None:
    write(tmp_path, "seed = 3\n", "below.toml")
    assert recipe.resolve(write(tmp_path, 'base = "below.toml"\n')).seed == 3
    write(tmp_path, 'base = "quickstart"\n', "below.toml")
    with pytest.raises(UserError, match="one level only"):
        recipe.load(str(tmp_path / "mine.toml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = ", "not valid TOML"),
        ("sed = 1", "unknown field sed: did you mean seed"),
        ("[update]\nlearning_rte = 1", "unknown field update.learning_rte: did you mean update.learning_rate"),
        ("seed = 'one'", "seed must be a whole number, got 'one'"),
        ("update = 1", "update must be a table, got 1"),
        ("base = 1", "base must be text"),
        ("base = 'nosuch'", "unknown recipe 'nosuch'"),
        ("base = 'nosuch.toml'", "no recipe file"),
        ("[envs.chain.options]\nwhen = 2024-01-01", "envs.chain.options.when must be"),
    ],
)
def test_a_bad_recipe_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        recipe.resolve(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_env_trains_on_that_environment_alone_and_flags_reach_it() -> None:
    run = recipe.resolve("quickstart", ["--envs.sums.options.terms", "2", "3"][:0], env="sums")
    assert set(run.envs) == {"sums"} and run.envs["sums"].options == {} and run.envs["sums"].difficulties == ()
    assert recipe.resolve("quickstart", ["--envs.sums.weight", "2"], env="sums").envs["sums"].weight == 2.0
    assert recipe.resolve("azr", env="dsl") == recipe.resolve("azr")  # the recipe's own stays as the recipe has it


def test_what_recipes_need_on_an_environment_comes_with_it_and_below_flags() -> None:
    control, azr = recipe.resolve("rlvr-band", env="dsl"), recipe.resolve("azr")
    assert control.envs == azr.envs and control.acquire.mix == {"procedural": 1.0}
    assert (control.acquire.units, control.acquire.tasks_per_unit) == (azr.acquire.units, azr.acquire.tasks_per_unit)
    assert control.update.row_tokens == azr.update.row_tokens == 256
    assert control.update.learning_rate == recipe.resolve("rlvr-band").update.learning_rate  # the recipe's stays
    assert recipe.resolve("rlvr-band", ["--update.row-tokens", "320"], env="dsl").update.row_tokens == 320
    for env in (path.stem for path in (recipe.FOLDER / "env").glob("*.toml")):
        fits = [name for name in recipe.names() if recipe.example(name).plays == (env == "leduc")]
        assert len(fits) > 3
        for name in fits:
            recipe.check_envs(recipe.example(name, env=env))


def test_auto_is_the_embedded_model_that_knows_the_environment(tmp_path: Path) -> None:
    models = {env: recipe.resolve("azr", env=env).policies["main"].model for env in ("chain", "dsl", "sums")}
    assert models == {"chain": "tiny", "dsl": "tiny-dsl-induce", "sums": "tiny"}
    assert set(recipe.EMBEDDED.values()) | {"tiny"} <= set(EMBEDDED)
    mine = write(tmp_path, 'base = "quickstart"\n[policies.main]\nmodel = "elsewhere"\n')
    assert recipe.resolve(mine, env="dsl").policies["main"].model == "elsewhere"
    assert {p.model for p in recipe.resolve("rzero", env="dsl").policies.values()} == {"tiny-dsl-induce"}


def test_an_environment_that_cannot_propose_names_the_recipes_that_work(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(f'{{"prompt": "{i}+1=", "answer": "{i + 1}"}}\n' for i in range(200)))
    options = ["--envs.jsonl.options.path", str(path)]
    with pytest.raises(UserError, match="jsonl cannot turn proposals into tasks.*expert-iteration, .*rlvr, rlvr-band"):
        recipe.check_envs(recipe.resolve("quickstart", options, env="jsonl"))
    recipe.check_envs(recipe.resolve("rlvr", options, env="jsonl"))


def test_config_toml_holds_every_field_and_is_text_that_toml_reads() -> None:
    run = replace(Run(), policies={"main": replace(Run().policies["main"], model='a "quoted"\\path\x7f\n\u00e9')})
    text = recipe.to_toml(run)
    assert tomllib.loads(text)["policies"]["main"]["model"] == run.policies["main"].model
    for path in leaf_paths(Run):
        chosen = any(f".{table}." in f".{path}." for table in ("mix", "NAME", "rejected"))  # keys that a recipe chooses
        assert path.rsplit(".", 1)[-1] in text or chosen, path


def test_config_toml_is_written_whole(tmp_path: Path) -> None:
    recipe.write(recipe.resolve("rlvr"), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["config.toml"]
    assert recipe.from_toml(tmp_path / "config.toml") == recipe.resolve("rlvr")


def resumable(folder: Path) -> Run:
    run = recipe.fix_threads(recipe.resolve("quickstart", ["--seed", "3"]))
    (folder / "config.toml").write_text(recipe.to_toml(run))
    return run


def test_resume_keeps_its_config_and_may_grow(tmp_path: Path) -> None:
    run = resumable(tmp_path)
    assert type(run.cluster.threads) is int and run.cluster.threads >= 1
    assert recipe.resume(tmp_path) == run
    longer = recipe.resume(tmp_path, ["--schedule.generations", "12", "--cluster.actors", "3"], recipe="quickstart")
    assert (longer.schedule.generations, longer.cluster.actors, longer.seed) == (12, 3, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"overrides": ["--seed", "4"]}, "seed cannot change on --resume"),
        ({"overrides": ["--update.learning-rate", "1"]}, "update.learning_rate cannot change on --resume"),
        ({"overrides": ["--envs.sums.weight", "1"]}, "envs.sums cannot change on --resume"),
        ({"overrides": ["--schedule.generations", "2"]}, "may only grow on --resume: it is 10, got 2"),
        ({"overrides": ["--schedule.max-tokens", "2"]}, "schedule.max_tokens cannot change"),
        ({"recipe": "rlvr"}, "was started from recipe quickstart, not rlvr"),
        ({"env": "sums"}, "trains on chain, not sums"),
    ],
)
def test_resume_refuses_to_become_another_run(change: dict, message: str, tmp_path: Path) -> None:
    resumable(tmp_path)
    with pytest.raises(UserError, match=message):
        recipe.resume(tmp_path, **change)


def test_a_resume_may_change_mesh_and_hosts_and_forgets_the_old_hosts(tmp_path: Path) -> None:
    flags = "--mesh.fsdp 8 --hosts.processes 2 --hosts.process-id 0 --hosts.coordinator here:1234".split()
    run = recipe.resolve("quickstart", flags)
    (tmp_path / "config.toml").write_text(recipe.to_toml(run))
    assert recipe.resume(tmp_path) == replace(run, hosts=Run().hosts)
    assert recipe.resume(tmp_path, ["--mesh.fsdp", "2", "--hosts.processes", "auto"]).mesh.fsdp == 2
