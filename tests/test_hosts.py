"""Two operating-system processes train as one: the numbers of one process, a death that ends all, a resume anywhere."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import host_worker
import jax
import numpy as np
import pytest
from small_runs import small_run

from selfplay import recipe
from selfplay.checkpoint import Generations
from selfplay.config import EnvChoice, Hosts, Mesh, Run
from selfplay.errors import UserError
from selfplay.learner import Learner, train
from selfplay.metrics.files import read_metrics
from selfplay.models import load
from selfplay.models.sharding import make_mesh

ROOT = Path(__file__).parent.parent
DEADLINE_S = 900.0
"""For two processes to get somewhere on a busy machine."""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def start(*arguments: str, devices: int = 4, program: Sequence[str] = ("-m", "selfplay.cli")) -> subprocess.Popen[str]:
    """`selfplay train ...` in a process of its own."""
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    return subprocess.Popen(
        [sys.executable, *program, "train", *arguments],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": path, "JAX_NUM_CPU_DEVICES": str(devices)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def start_both(*arguments: str, program: Sequence[str] = ("-m", "selfplay.cli")) -> list[subprocess.Popen[str]]:
    """The same as two processes of four devices each."""
    here = f"--hosts.processes 2 --hosts.silent-s 10 --hosts.coordinator 127.0.0.1:{free_port()} --hosts.process-id"
    return [start(*arguments, *here.split(), process, program=program) for process in ("0", "1")]


def end(processes: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Exit code and errors of each process, which end by themselves."""
    ended = [(p.communicate(timeout=DEADLINE_S)[1], p.returncode) for p in processes]
    return [(code, errors) for errors, code in ended]


def error_of(stderr: str) -> str:
    [line] = [line for line in stderr.splitlines() if line.startswith("selfplay: error:")]
    return line


def wait_for(path: Path, processes: Sequence[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not path.exists():
        if time.monotonic() > deadline or any(p.poll() is not None for p in processes):
            for p in processes:
                p.kill()
            raise AssertionError(f"{path.name} never came: {[p.communicate() for p in processes]}")
        time.sleep(0.01)


WORKER = str(Path(__file__).parent / "host_worker.py")


@pytest.fixture(scope="module")
def run(random_model: Path) -> Run:
    """Two generations of one step on eight devices, with an Adam that does not magnify rounding."""
    short = "--schedule.generations 2 --schedule.steps-per-generation 1"
    eight_rows = "--acquire.units 1 --acquire.group-size 2"  # as evaluation has: fewer programs to compile
    fewer = "--update.interference-every 0 --update.kl.place none"
    small = small_run("quickstart", random_model, short, eight_rows, fewer)
    envs = {name: EnvChoice(difficulties=(1,)) for name in small.envs}
    return replace(small, envs=envs, mesh=Mesh(fsdp=8), update=replace(small.update, adam_eps=1e-2))


@dataclass(frozen=True)
class Killed:
    """A run of two processes that drew together first, and of which the second was killed after generation 1."""

    folder: Path
    drawn: Path
    """What host_worker.py wrote."""
    code: int
    errors: str
    seconds: float
    """How the first process ended, and how long after."""


@pytest.fixture(scope="module")
def killed(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    folder = tmp_path_factory.mktemp("killed") / "run"
    file, drawn = folder.with_suffix(".toml"), folder.with_name("drawn.npz")
    file.write_text(recipe.to_toml(replace(run, recipe=file.stem)))
    processes = start_both(str(file), "--out", str(folder), program=(WORKER, str(drawn), "short"))
    wait_for(folder / "generations" / "0001" / "manifest.json", processes)
    processes[1].kill()
    began = time.monotonic()
    [(code, errors)] = end(processes[:1])
    processes[1].communicate()
    shutil.rmtree(folder / "generations" / "0002", ignore_errors=True)  # where it came so far before it noticed
    return Killed(folder, drawn, code, errors, time.monotonic() - began)


@pytest.fixture(scope="module")
def alone(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same run by one process of eight devices, undisturbed."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    train(run, folder)
    return folder


def params_of(folder: Path, generation: int) -> list[np.ndarray]:
    """As they lie on disk, without any device."""
    return jax.tree.leaves(Generations(folder / "generations", keep=3).load_params(generation, "main"))


def curves(folder: Path, step: int) -> dict[str, Any]:
    [record] = [r for r in read_metrics(folder, "step") if r["step"] == step]
    skipped = ("time/", "perf/", "progress/minutes", "alarm/")
    return {k: v for k, v in record.items() if not k.startswith(skipped) and isinstance(v, float)}


def assert_close(one: Path, other: Path, step: int) -> None:
    theirs, ours = curves(one, step), curves(other, step)
    assert theirs.keys() == ours.keys() and len(ours) > 20 and ours["policy/grad_norm"] > 0
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs[name], rtol=1e-4, atol=1e-4, err_msg=name)


def assert_restores(folder: Path, run: Run, generation: int) -> None:
    """The weights of the run's mesh are the bits on disk."""
    opened = Learner(run, folder)
    assert opened.restore()
    restored = jax.tree.leaves(opened.joint.policies["main"].params)
    assert {len(a.sharding.device_set) for a in restored} == {run.mesh.devices}
    for a, b in zip(restored, params_of(folder, generation), strict=True):
        np.testing.assert_array_equal(np.asarray(a), b)


def assert_drew(file: Path, case: str, model: str | Path) -> None:
    """Two processes drew the tokens of one, and log-probabilities to 1e-5."""
    chosen = host_worker.CASES[case]
    expected = host_worker.draw(chosen, *host_worker.local_sampler(chosen, model))
    with np.load(file) as drawn:
        assert drawn.keys() == expected.keys()
        for name, values in expected.items():
            tolerance = 1e-5 if name.endswith("logprobs") else 0
            np.testing.assert_allclose(drawn[name], values, rtol=0, atol=tolerance, err_msg=name)
    assert all(values.size > 10 for values in expected.values())


# ---------------------------------------------------------------- the same numbers


def test_a_death_ends_all_with_one_line(killed: Killed) -> None:
    assert killed.code == 1 and killed.seconds < 60
    assert "process 1" in error_of(killed.errors) or "did another process die?" in error_of(killed.errors)
    assert not list(killed.folder.glob("generations/*tmp*"))


def test_two_processes_draw_the_tokens_of_one(killed: Killed, random_model: Path) -> None:
    assert_drew(killed.drawn, "short", random_model)
    assert killed.drawn.with_suffix(".txt").read_text() == "[] []"  # what process 0 let go, process 1 has let go too


def test_two_processes_are_one_of_eight_devices(killed: Killed, alone: Path, random_model: Path) -> None:
    base = jax.tree.leaves(load(random_model).params)
    for generation, tolerance in ((0, 0.0), (1, 1e-5)):
        two, one = params_of(killed.folder, generation), params_of(alone, generation)
        for a, b in zip(two, one, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)
    assert max(float(np.abs(a - b).max()) for a, b in zip(two, base, strict=True)) > 1e-4  # it did learn
    assert_close(killed.folder, alone, 1)


@pytest.mark.parametrize("mesh", [Mesh(fsdp=8), Mesh()], ids=["eight devices", "one device"])
def test_resume_on_another_mesh_goes_on(mesh: Mesh, killed: Killed, alone: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(killed.folder, tmp_path / "run"))
    resumed = recipe.resume(folder, ["--mesh.fsdp", str(mesh.fsdp)])
    assert resumed.hosts == Hosts() and resumed.mesh == mesh
    assert_restores(folder, resumed, 1)
    train(resumed, folder, resume=True)
    assert_close(alone, folder, 2)
    assert read_metrics(folder, "generation")[-1]["generation"] == 2


# ---------------------------------------------------------------- bad input


def test_a_process_that_nobody_answers_says_so(tmp_path: Path) -> None:
    here = f"--hosts.processes 2 --hosts.process-id 1 --hosts.coordinator 127.0.0.1:{free_port()} --hosts.start-s 1"
    one = start("quickstart", "--out", str(tmp_path / "run"), *here.split())
    [(code, errors)] = end([one])
    assert (
        code == 2 and "process 1 of 2 did not meet the others" in error_of(errors) and "within 1 s" in error_of(errors)
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("fsdp", [4, 16])
def test_a_mesh_of_several_processes_takes_all_devices(fsdp: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match=f"needs {fsdp} devices, got 8 in 2 processes, which must all be used"):
        make_mesh(fsdp=fsdp)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--hosts.processes 2 --hosts.process-id 2", r"hosts.process_id must be in 0..1"),
        ("--hosts.processes 0", "hosts.processes must be auto or >= 1"),
        ("--hosts.coordinator nowhere", "hosts.coordinator must be auto or HOST:PORT"),
    ],
)
def test_bad_hosts_are_refused(flags: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe.resolve("quickstart", flags.split())


# ---------------------------------------------------------------- the long forms

QUICKSTART = (
    "quickstart --acquire.tasks-per-unit 8 --propose.per-ask 8 --acquire.group-size 4 --evaluate.tasks 16 "
    "--evaluate.tasks-between 16 --schedule.generations 3 --schedule.steps-per-generation 2 --update.adam-eps 1e-2 "
    "--update.interference-every 2 --update.micro-rows 1 --cluster.threads 1 --mesh.fsdp 8"
)


@pytest.mark.proof
@pytest.mark.parametrize("actors", ["0", "1"])
def test_the_quickstart_in_two_processes_is_killed_and_goes_on_anywhere(actors: str, tmp_path: Path) -> None:
    folder, drawn = tmp_path / "run", tmp_path / "drawn.npz"
    arguments = (*QUICKSTART.split(), "--cluster.actors", actors, "--out", str(folder))
    processes = start_both(*arguments, program=(WORKER, str(drawn), "long"))
    wait_for(folder / "generations" / "0001" / "manifest.json", processes)
    for process in processes:
        process.kill()
        process.communicate()
    assert_drew(drawn, "long", "tiny")
    assert drawn.with_suffix(".txt").read_text() == "[] [1]"
    shutil.rmtree(folder / "generations" / "0002", ignore_errors=True)
    for name, flags in (("mixed", "--mesh.data 2 --mesh.fsdp 2 --mesh.tensor 2"), ("one", "--mesh.fsdp 1")):
        copy = Path(shutil.copytree(folder, tmp_path / name))
        assert_restores(copy, recipe.resume(copy, flags.split()), 1)
        [(code, errors)] = end([start("--out", str(copy), "--resume", *flags.split(), devices=8)])
        assert code == 0, errors
    assert [code for code, _ in end(start_both("--out", str(folder), "--resume"))] == [0, 0]
    for name in ("mixed", "one"):
        assert_close(folder, tmp_path / name, 3)
        assert read_metrics(tmp_path / name, "generation")[-1]["generation"] == 3


@pytest.mark.proof
@pytest.mark.parametrize(("victim", "how"), [(1, signal.SIGSTOP), (1, signal.SIGTERM), (0, signal.SIGKILL)])
def test_nobody_waits_for_the_dead(victim: int, how: int, tmp_path: Path) -> None:
    processes = start_both(*QUICKSTART.split(), "--out", str(tmp_path / "run"), "--cluster.actors", "0")
    wait_for(tmp_path / "run" / "generations" / "0000" / "manifest.json", processes)
    processes[victim].send_signal(how)
    began = time.monotonic()
    [(code, errors)] = end([processes[1 - victim]])
    processes[victim].kill()
    processes[victim].communicate()
    assert code != 0 and time.monotonic() - began < 60
    if victim == 1:
        assert "process 1" in error_of(errors) or "did another process die?" in error_of(errors)
    else:  # the coordination service died with it: jax ends us, unless we are faster
        assert "fatal errors" in errors or "process 0" in errors


@pytest.mark.proof
def test_a_mesh_too_large_is_refused_by_all(tmp_path: Path) -> None:
    for code, errors in end(start_both("quickstart", "--out", str(tmp_path / "run"), "--mesh.fsdp", "16")):
        assert code == 2 and "needs 16 devices, got 8 in 2 processes" in error_of(errors)
    assert not (tmp_path / "run").exists()
