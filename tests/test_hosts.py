"""Two operating-system processes train as one: the numbers of one process, a death that ends all, a resume anywhere."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from small_runs import small_run

from selfplay import recipe
from selfplay.checkpoint import Generations
from selfplay.config import Hosts, Mesh, Run
from selfplay.errors import UserError
from selfplay.learner import Learner, train
from selfplay.metrics.files import read_metrics
from selfplay.models import load

ROOT = Path(__file__).parent.parent
DEADLINE_S = 240.0
"""For two processes to get somewhere on a busy machine."""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def start(arguments: Sequence[str], process: int, port: int, *, devices: int = 4) -> subprocess.Popen[str]:
    """`selfplay train ...` as one process of two."""
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    here = f"--hosts.processes 2 --hosts.process-id {process} --hosts.coordinator 127.0.0.1:{port}"
    return subprocess.Popen(
        [sys.executable, "-m", "selfplay.cli", "train", *arguments, *here.split(), "--hosts.silent-s", "10"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": path, "JAX_NUM_CPU_DEVICES": str(devices)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def start_both(*arguments: str) -> list[subprocess.Popen[str]]:
    port = free_port()
    return [start(arguments, process, port) for process in (0, 1)]


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


@pytest.fixture(scope="module")
def run(random_model: Path) -> Run:
    """Three generations of one step on eight devices, with an Adam that does not magnify rounding."""
    small = small_run("quickstart", random_model, "--schedule.generations 3 --schedule.steps-per-generation 1")
    update = replace(small.update, adam_eps=1e-2, interference_every=2)
    return replace(small, mesh=Mesh(fsdp=8), update=update)


@pytest.fixture(scope="module")
def killed(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str, float]:
    """The folder of a run of two processes, of which the second was killed after generation 1; how the first ended:
    its exit code, its errors, and after how many seconds."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    file = folder.with_suffix(".toml")
    file.write_text(recipe.to_toml(replace(run, recipe=file.stem)))
    processes = start_both(str(file), "--out", str(folder))
    wait_for(folder / "generations" / "0001" / "manifest.json", processes)
    processes[1].kill()
    began = time.monotonic()
    [(code, errors)] = end(processes[:1])
    processes[1].communicate()
    shutil.rmtree(folder / "generations" / "0002", ignore_errors=True)  # where it came so far before it noticed
    return folder, code, errors, time.monotonic() - began


@pytest.fixture
def copied(killed: tuple[Path, int, str, float], tmp_path: Path) -> Iterator[Path]:
    yield Path(shutil.copytree(killed[0], tmp_path / "run"))


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


# ---------------------------------------------------------------- the same numbers


def test_a_death_ends_all_with_one_line(killed: tuple[Path, int, str, float]) -> None:
    folder, code, errors, seconds = killed
    assert code == 1 and seconds < 60
    assert "process 1" in error_of(errors) or "did another process die?" in error_of(errors)
    assert not list(folder.glob("generations/*tmp*"))


def test_two_processes_are_one_of_eight_devices(killed: tuple[Path, int, str, float], run: Run, tmp_path: Path) -> None:
    train(replace(run, schedule=replace(run.schedule, generations=1)), tmp_path / "run")
    base = jax.tree.leaves(load(run.policies["main"].model).params)
    for generation, tolerance in ((0, 0.0), (1, 1e-5)):
        two, one = params_of(killed[0], generation), params_of(tmp_path / "run", generation)
        for a, b in zip(two, one, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)
    assert max(float(np.abs(a - b).max()) for a, b in zip(two, base, strict=True)) > 1e-4  # it did learn
    assert_close(killed[0], tmp_path / "run", 1)


def test_resume_on_any_mesh_goes_on(copied: Path, tmp_path: Path) -> None:
    saved = params_of(copied, 1)
    folders = {}
    for name, mesh in (("eight", Mesh(fsdp=8)), ("one", Mesh())):
        folders[name] = Path(shutil.copytree(copied, tmp_path / name))
        resumed = recipe.resume(folders[name], ["--mesh.fsdp", str(mesh.fsdp)])
        assert resumed.hosts == Hosts() and resumed.mesh == mesh
        opened = Learner(resumed, folders[name])
        assert opened.restore()
        restored = jax.tree.leaves(opened.joint.policies["main"].params)
        assert {len(a.sharding.device_set) for a in restored} == {mesh.fsdp}
        for a, b in zip(restored, saved, strict=True):
            np.testing.assert_array_equal(np.asarray(a), b)
        train(resumed, folders[name], resume=True)
    assert [code for code, _ in end(start_both("--out", str(copied), "--resume"))] == [0, 0]
    for folder in folders.values():
        assert_close(copied, folder, 2)
        assert read_metrics(folder, "generation")[-1]["generation"] == 3


# ---------------------------------------------------------------- bad input


def test_a_process_that_nobody_answers_says_so(tmp_path: Path) -> None:
    one = start(["quickstart", "--out", str(tmp_path / "run"), "--hosts.start-s", "3"], 1, free_port())
    [(code, errors)] = end([one])
    assert code == 2 and "process 1 of 2 did not meet the others" in error_of(errors) and "3 s" in error_of(errors)
    assert not (tmp_path / "run").exists()


def test_a_mesh_that_is_not_all_devices_is_refused_by_all(run: Run, tmp_path: Path) -> None:
    for ended in end(start_both("quickstart", "--out", str(tmp_path / "run"), "--mesh.fsdp", "16")):
        assert ended[0] == 2 and "needs 16 devices, got 8 in 2 processes" in error_of(ended[1])
    assert not (tmp_path / "run").exists()


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
