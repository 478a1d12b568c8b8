"""The command line: a user's mistake is one line and exit code 2, with nothing written; good input is handed over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from selfplay import recipe
from selfplay.cli import VERBS, main
from selfplay.config import Run
from selfplay.errors import ActorError

HEAVY = ("jax", "flax", "numpy", "transformers", "orbax", "optax", "tensorboardX", "tyro", "rich")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder; what `prepare_jax` sets is put back afterwards."""
    monkeypatch.chdir(tmp_path)
    for name in ("NPROC", "JAX_COMPILATION_CACHE_DIR", "TF_CPP_MIN_LOG_LEVEL"):
        monkeypatch.setenv(name, "1")
    return tmp_path


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, here: Path) -> list[tuple[Run, Path, bool]]:
    """Stands in for the learner and the model folder: what `selfplay train` hands over."""
    calls: list[tuple[Run, Path, bool]] = []
    learner = types.ModuleType("selfplay.learner")
    learner.train = lambda run, folder, *, resume, hosts, actors: calls.append((run, folder, resume))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "selfplay.learner", learner)
    monkeypatch.setattr("selfplay.learner", learner, raising=False)
    monkeypatch.setattr("selfplay.models.hf.locate", Path)
    monkeypatch.setattr("selfplay.models.config.read_config", lambda folder: None)
    return calls


def make_run(folder: Path, *overrides: str) -> Run:
    folder.mkdir(parents=True)
    run = recipe.fix_threads(recipe.resolve("quickstart", overrides))
    (folder / "config.toml").write_text(recipe.to_toml(run))
    return run


def make_cut_model(folder: Path) -> None:
    """A model folder whose weights end too early."""
    import jax

    from selfplay import models

    sizes = {"vocab_size": 128, "hidden_size": 16, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 8}
    config = models.ModelConfig(family="llama", intermediate_size=16, max_positions=512, **sizes)
    models.save(folder, config, models.init_params(config, jax.random.key(0)), models.printable_ascii())
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:300])


BAD = {
    "unknown command": ("trian quickstart", "unknown command 'trian'; did you mean train"),
    "no recipe": ("train", "train needs a recipe first: quickstart,"),
    "unknown recipe": ("train quikstart", "unknown recipe 'quikstart'; did you mean quickstart"),
    "no recipe file": ("train mine.toml", "no recipe file mine.toml"),
    "unknown environment": ("train quickstart --env chian", "unknown environment 'chian'; did you mean chain?"),
    "no such class": ("train quickstart --env envs.chain:Chian", "has no class Chian; did you mean Chain?"),
    "unknown field": ("train quickstart --update.learning-rte 1", "did you mean update.learning_rate"),
    "unknown root": ("train quickstart --nothing.like-it 1", "unknown field nothing.like_it; near it: acquire,"),
    "part of a name": ("train quickstart --model.path x", "unknown field model.path; near it: policies.NAME.model"),
    "wrong type": ("train quickstart --seed one", "seed must be a whole number, got 'one'"),
    "wrong list": ("train quickstart --envs.chain.difficulties 1 two", "a list of: a whole number, got '1 two'"),
    "wrong name": ("train quickstart --update.loss pppo", "got 'pppo': did you mean ppo?"),
    "out of range": ("train quickstart --acquire.group-size 0", "acquire.group_size must be >= 1, got 0"),
    "contradiction": ("train quickstart --acquire.tasks-per-unit 25", "must be a multiple of propose.per_ask (24)"),
    "mesh too large": (
        "train quickstart --mesh.fsdp 4096",
        "mesh data=1 fsdp=4096 tensor=1 needs 4096 devices, got",
    ),
    "no such difficulty": ("train quickstart --envs.chain.difficulties 99", "envs.chain.difficulties: it has no 99"),
    "no such mode": ("train quickstart --envs.chain.modes sing", "envs.chain.modes: it has no sing"),
    "wrong option": ("train quickstart --envs.chain.options.digit 3", "unknown option 'digit'; did you mean digits"),
    "stray argument": ("train quickstart quickly", "unexpected argument 'quickly'"),
    "value left out": ("train quickstart --seed", "--seed needs a value"),
    "folder left out": ("train quickstart --out", "--out needs a value"),
    "missing model": ("train quickstart --policies.main.model nowhere", "model 'nowhere': no such folder"),
    "damaged model": ("train quickstart --policies.main.model broken", "broken"),
    "damaged weights": ("train quickstart --policies.main.model cut", "cut/model.safetensors: damaged"),
    "folder in use": ("train quickstart --out full", "full exists already: choose another --out"),
    "run in use": ("train quickstart --out done", "done exists already: add --resume to go on with it"),
    "resume of nothing": ("train quickstart --resume", "nothing to resume: no run of quickstart under runs/"),
    "resume of no run": ("train quickstart --out full --resume", "nothing to resume: full is not a run folder"),
    "resume as another": ("train rlvr --out done --resume", "done was started from recipe quickstart, not rlvr"),
    "resume changed": ("train --out done --resume --seed 5", "seed cannot change on --resume"),
    "yoked to nothing": ("train yoked", "acquire.mix.yoked needs acquire.yoked_run"),
    "yoked to no run": ("train yoked --acquire.yoked-run dne", "no run 'dne'"),
    "evaluate, flag": ("evaluate done --smaples 3", "unknown argument '--smaples'; did you mean --samples"),
    "evaluate, number": ("evaluate done --samples few", "invalid int value: 'few'"),
    "export, no out": ("export done", "--out"),
    "export, no run": ("export dne --out x", "no run 'dne'"),
    "export, not a run": ("export full --out x", "full is not a run folder"),
    "export, taken": ("export done --out full", "full exists already"),
    "export, empty run": ("export done --out x", "done has no complete generation yet"),
    "export, generation": ("export done --out x --generation 7", "done has no generation 7; on disk: none"),
    "compare, no run": ("compare dne", "no run 'dne'"),
    "envs, unknown verb": ("envs chek chain", "unknown command 'envs chek'; did you mean check"),
    "envs, unknown name": ("envs check chian", "unknown environment 'chian'; did you mean chain?"),
    "envs, bad new name": ("envs new Not-A-Name", "environment name must be"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_exit_2_and_nothing_written(case: str, here: Path, capfd) -> None:
    make_run(here / "done")
    (here / "full").mkdir()
    (here / "full" / "file").write_text("mine")
    (here / "broken").mkdir()
    (here / "broken" / "config.json").write_text("{")
    if "cut" in BAD[case][0]:
        make_cut_model(here / "cut")
    before = sorted(here.rglob("*"))
    command, message = BAD[case]
    assert main(command.split()) == 2
    out, err = capfd.readouterr()
    assert err.startswith("selfplay: error: ") and err.count("\n") == 1, err
    assert message in err
    assert out == ""
    assert sorted(here.rglob("*")) == before


def test_train_hands_over_the_resolved_run(started, here: Path) -> None:
    flags = "--seed 3 --cluster.threads 2 --out there --update.learning_rate=2e-4"
    assert main(["train", "quickstart", *flags.split()]) == 0
    [(run, folder, resume)] = started
    assert (run.seed, run.update.learning_rate, run.cluster.threads) == (3, 2e-4, 2)
    assert (folder, resume) == (Path("there"), False)


def test_train_writes_the_cores_into_the_run_and_tells_jax(started, here: Path) -> None:
    import os

    assert main("train quickstart".split()) == 0
    threads = started[0][0].cluster.threads
    assert type(threads) is int and os.environ["NPROC"] == str(threads)


def test_train_names_the_next_free_folder(started, here: Path) -> None:
    for expected in ("runs/quickstart", "runs/quickstart-2", "runs/quickstart-3"):
        assert main(["train", "quickstart"]) == 0
        assert started[-1][1] == Path(expected)
        make_run(here / expected)
    assert main("train quickstart --resume".split()) == 0
    assert started[-1][1:] == (Path("runs/quickstart-3"), True)


def test_resume_goes_on_with_the_config_of_the_folder(started, here: Path) -> None:
    old = make_run(here / "mine", "--seed", "9")
    assert main("train --out mine --resume --schedule.generations 12".split()) == 0
    run, folder, resume = started[0]
    assert (run.seed, run.schedule.generations, folder, resume) == (9, 12, Path("mine"), True)
    assert run.cluster.threads == old.cluster.threads


def test_resume_of_an_empty_folder_starts_anew(started, here: Path) -> None:
    (here / "fresh").mkdir()
    assert main("train quickstart --out fresh --resume".split()) == 0
    assert started[0][1:] == (Path("fresh"), False)


def test_yoked_takes_a_run_by_name(started, here: Path) -> None:
    make_run(here / "runs" / "other")
    assert main("train yoked --acquire.yoked-run other".split()) == 0
    assert started[0][0].acquire.yoked_run == "runs/other"


def test_an_error_of_the_machine_has_another_exit_code(started, here: Path, monkeypatch, capfd) -> None:
    def fail(run: Run, folder: Path, *, resume: bool, hosts: object, actors: object) -> None:
        raise ActorError("actor 0 died:\nexit code -9")

    monkeypatch.setattr(sys.modules["selfplay.learner"], "train", fail)
    assert main(["train", "quickstart"]) == 1
    assert capfd.readouterr().err == "selfplay: error: actor 0 died: exit code -9\n"


@pytest.mark.parametrize("argv", [["--help"], ["help"], *([verb, "--help"] for verb in VERBS)])
def test_help_exits_0(argv: list[str], here: Path, capsys) -> None:
    try:
        code = main(argv)
    except SystemExit as stop:  # argparse leaves this way after its help
        code = stop.code
    assert code == 0 and "selfplay" in capsys.readouterr().out


def test_help_of_a_recipe_lists_the_fields_with_its_values(here: Path, capsys) -> None:
    assert main("train rlvr-band --help".split()) == 0
    text = capsys.readouterr().out
    assert "--objective.follow" in text and "(default: train)" in text
    assert main("train yoked --help".split()) == 0


def test_recipes_and_envs_are_listed(here: Path, capsys) -> None:
    assert main(["recipes"]) == 0 and main("envs list".split()) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in (*recipe.names(), "chain", "sums", "jsonl"))


def test_a_new_environment_passes_its_check(here: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(here)])
    assert main("envs new word_count".split()) == 0
    assert main("envs check word_count:WordCount".split()) == 0
    assert "all checks pass" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["--help"], ["recipes"], ["train", "quickstart", "--seed", "x"], ["train", "--help"]])
def test_nothing_heavy_is_imported_before_it_is_needed(argv: list[str]) -> None:
    code = (
        "import sys; from selfplay.cli import main; main(sys.argv[1:]); "
        f"print('heavy:', [m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("heavy: []\n")


def test_a_mesh_of_two_trains_on_a_laptop(random_model: Path, tmp_path: Path) -> None:
    """The CPU stands in for two devices: one step through the command line, with the sampler on the same mesh."""
    flags = (
        "--mesh.fsdp 2 --cluster.actors 0 --cluster.threads 2 --schedule.generations 1 "
        "--schedule.steps-per-generation 1 --acquire.units 1 --acquire.tasks-per-unit 4 --propose.per-ask 4 "
        "--acquire.group-size 4 --evaluate.tasks 4 --evaluate.tasks-between 4 --envs.chain.difficulties 5 "
        "--roles.solve.max-new-tokens 32 --update.filter none"
    )
    command = [sys.executable, "-m", "selfplay.cli", "train", "quickstart", "--out", str(tmp_path / "run")]
    command += ["--policies.main.model", str(random_model)]
    environment = {k: v for k, v in os.environ.items() if k != "JAX_NUM_CPU_DEVICES"}
    subprocess.run([*command, *flags.split()], check=True, env=environment, capture_output=True, timeout=300)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (step,) = [line for line in lines if "policy/loss" in line]
    assert step["update/skipped"] < 2 and step["policy/grad_norm"] > 0
    assert (tmp_path / "run" / "generations" / "0001" / "manifest.json").is_file()
