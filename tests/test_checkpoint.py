"""A generation is there whole, bit for bit, or it is not there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from selfplay.checkpoint import Generations
from selfplay.errors import CheckpointError
from selfplay.manifest import MANIFEST, folder_digest

STATE = {"step": 12, "tokens": 2**40, "baseline": {"solve": 0.1 + 0.2}, "none": None, "names": ["ä", "b"]}
BLOBS = {"archive": bytes(range(256)), "empty": b""}


def arrays(value: float = 1.0) -> Any:
    """fp32, bf16 and int32 leaves, optax's nested NamedTuples, an empty and a NumPy leaf; all of it random."""
    rng = np.random.default_rng(int(value))

    def fill(a: Any) -> jax.Array:
        if np.issubdtype(a.dtype, np.integer):
            return jnp.asarray(rng.integers(0, 1000, a.shape), a.dtype)
        return jnp.asarray(rng.standard_normal(a.shape).astype(np.dtype(a.dtype)))

    shapes = {"embed": ((16, 8), jnp.float32), "bias": ((3,), jnp.bfloat16), "nothing": ((0, 4), jnp.float32)}
    params = {"layers": {"0": {n: jnp.asarray(np.zeros(shape, dtype)) for n, (shape, dtype) in shapes.items()}}}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.linear_schedule(0.0, 1e-3, 10)))
    main = {"params": params, "opt_state": optimizer.init(params)}
    return {"policies": {"main": jax.tree.map(fill, main)}, "ema": np.asarray([0.1, 0.7])}


def abstract(tree: Any) -> Any:
    return jax.tree.map(lambda a: a if isinstance(a, np.ndarray) else jax.ShapeDtypeStruct(a.shape, a.dtype), tree)


def assert_same_bits(got: Any, expected: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.fixture(scope="module")
def two_saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with generations 0 and 1; tests that change it copy it."""
    folder = tmp_path_factory.mktemp("run") / "generations"
    generations = Generations(folder, keep=3)
    for g in (0, 1):
        generations.save(g, arrays(g + 1.0), {**STATE, "generation": g}, blobs=BLOBS)
    return folder


@pytest.fixture
def saved(two_saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(two_saved, tmp_path / "generations"))


def test_everything_comes_back_bit_for_bit(two_saved: Path) -> None:
    generations = Generations(two_saved, keep=3)
    assert generations.all() == [0, 1] and generations.newest() == 1 and generations.newest(before=1) == 0
    tree = arrays(2.0)
    got, state, blobs = generations.load(1, abstract(tree))
    assert_same_bits(got, tree)
    assert state == {**STATE, "generation": 1} and blobs == BLOBS


def test_parameters_alone(two_saved: Path) -> None:
    generations, params = Generations(two_saved, keep=3), arrays(1.0)["policies"]["main"]["params"]
    assert_same_bits(generations.load_params(0, "main", abstract(params)), params)
    assert_same_bits(generations.load_params(0, "main"), jax.tree.map(np.asarray, params))
    with pytest.raises(CheckpointError, match="generation 0 holds no policy 'critic'; it has main"):
        generations.load_params(0, "critic")


def test_one_device_to_a_mesh_of_eight_and_back(two_saved: Path, tmp_path: Path) -> None:
    mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    tree = arrays(2.0)

    def on_mesh(a: Any) -> Any:
        if isinstance(a, np.ndarray):
            return a
        spec = P("fsdp", "tensor") if a.shape == (16, 8) else P()
        return jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=NamedSharding(mesh, spec))

    wanted = jax.tree.map(on_mesh, tree)
    got, *_ = Generations(two_saved, keep=3).load(1, wanted)
    embed = got["policies"]["main"]["params"]["layers"]["0"]["embed"]
    assert embed.sharding == NamedSharding(mesh, P("fsdp", "tensor"))
    assert embed.addressable_shards[0].data.shape == (4, 4)
    assert_same_bits(jax.tree.map(np.asarray, got), jax.tree.map(np.asarray, tree))
    back = Generations(tmp_path, keep=1)
    back.save(0, got, {}, blobs={})
    assert_same_bits(back.load(0, abstract(tree))[0], tree)


def biggest(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST), key=lambda p: p.stat().st_size)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped bit": (lambda g: flip(biggest(g)), "has other bytes than were written"),
    "truncated": (lambda g: biggest(g).write_bytes(biggest(g).read_bytes()[:-1]), "bytes, expected"),
    "file gone": (lambda g: biggest(g).unlink(), "is missing"),
    "blob changed": (lambda g: flip(g / "blobs" / "archive"), "blobs/archive has other bytes"),
    "manifest flipped": (lambda g: flip(g / MANIFEST), MANIFEST),
    "manifest cut": (lambda g: (g / MANIFEST).write_text("{"), "manifest.json is not JSON"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_generation_is_passed_over_with_a_message(saved: Path, damage: str) -> None:
    harm, words = DAMAGE[damage]
    harm(saved / "0001")
    said: list[str] = []
    generations = Generations(saved, keep=3, report=said.append)
    assert generations.newest() == 0
    assert len(said) == 1 and said[0].startswith("generation 1 is damaged and passed over: ") and words in said[0]
    with pytest.raises(CheckpointError, match="generation 1 is damaged"):
        generations.load_state(1)


def test_without_a_manifest_it_does_not_exist(saved: Path) -> None:
    (saved / "0001" / MANIFEST).unlink()
    (saved / "0002.orbax-checkpoint-tmp-17").mkdir()
    (saved / "notes").mkdir()
    generations = Generations(saved, keep=3)
    assert generations.all() == [0] and generations.newest() == 0
    with pytest.raises(CheckpointError, match="has no complete generation 1; it has 0"):
        generations.load_blobs(1)
    assert generations.clean() == ["0001", "0002.orbax-checkpoint-tmp-17"]
    assert sorted(p.name for p in saved.iterdir()) == ["0000", "notes"]


def test_another_format_is_refused_not_passed_over(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfplay.checkpoint.FORMAT", 4)
    with pytest.raises(CheckpointError, match="0001 is of format 3, this code reads format 4"):
        Generations(saved, keep=3).newest()


def test_arrays_that_do_not_fit_are_named(two_saved: Path) -> None:
    generations, tree = Generations(two_saved, keep=3), abstract(arrays())
    tree["policies"]["main"]["params"]["layers"]["0"]["embed"] = jax.ShapeDtypeStruct((16, 9), jnp.float32)
    with pytest.raises(CheckpointError, match=r"params/layers/0/embed is float32\[16, 8\], expected float32\[16, 9\]"):
        generations.load(1, tree)
    del tree["ema"]
    with pytest.raises(CheckpointError, match="not on disk: none; only on disk: ema"):
        generations.load(1, tree)


def test_ambiguous_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'a/b' is ambiguous"):
        Generations(tmp_path, keep=1).save(0, {"a/b": jnp.ones(1)}, {}, blobs={})
    assert list(tmp_path.iterdir()) == []


def test_nothing_there(tmp_path: Path) -> None:
    generations = Generations(tmp_path / "none", keep=1)
    assert generations.newest() is None and generations.all() == [] and generations.clean() == []


def test_retention_keeps_newest_base_and_exempt(tmp_path: Path) -> None:
    generations = Generations(tmp_path, keep=2)
    for g in range(6):
        generations.save(g, {"x": jnp.full(3, g)}, {}, blobs={}, exempt={2})
    assert generations.all() == [0, 2, 4, 5]
    generations.save(4, {"x": jnp.full(3, 40)}, {}, blobs={})  # written anew, and 2 is exempt no more
    assert generations.all() == [0, 4, 5]
    assert generations.load(4, {"x": np.zeros(3, np.int32)})[0]["x"].tolist() == [40, 40, 40]


class Killed(BaseException):
    """Ends a save where it stands."""


@pytest.mark.parametrize(
    ("where", "then"),
    [
        ("checkpoint._Orbax.save", [0, 2]),
        ("checkpoint.write_manifest", [0, 2]),
        ("manifest.os.replace", [0, 2]),
        ("checkpoint.Generations._prune", [0, 2, 3]),
        ("checkpoint.shutil.rmtree", [0, 3]),
    ],
)
def test_cut_short_at_each_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, then: list[int]) -> None:
    generations = Generations(tmp_path, keep=1, report=pytest.fail)
    for g in (0, 2):
        generations.save(g, {"x": jnp.full(3, g)}, {"g": g}, blobs={"b": b"b"})

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(f"selfplay.{where}", die)
        with pytest.raises(Killed):
            generations.save(3, {"x": jnp.full(3, 3)}, {"g": 3}, blobs={"b": b"b"})
    again = Generations(tmp_path, keep=1, report=pytest.fail)
    assert again.all() == then and again.newest() == then[-1]
    assert again.load_state(then[-1]) == {"g": then[-1]}
    again.save(3, {"x": jnp.full(3, 3)}, {"g": 3}, blobs={})  # over whatever lies there
    assert again.newest() == 3 and again.all() == [0, 3]
    again.clean()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0000", "0003"]


def test_a_state_that_is_not_plain_is_refused_before_anything_is_touched(saved: Path) -> None:
    generations = Generations(saved, keep=3)
    with pytest.raises(TypeError, match="not JSON serializable"):
        generations.save(1, arrays(), {"x": np.float32(1)}, blobs={})
    assert generations.newest() == 1


def test_numbers_of_the_state_keep_their_bits(tmp_path: Path) -> None:
    state = {"x": [0.1, 1e-320, -0.0, float("inf"), 2**70], "nan": float("nan")}
    generations = Generations(tmp_path, keep=1)
    generations.save(0, {"x": jnp.ones(1)}, state, blobs={})
    assert json.dumps(generations.load_state(0)) == json.dumps(state)


SAVER = """
import os, signal, sys, threading, time
import jax.numpy as jnp, orbax.checkpoint
from collections.abc import Callable
from pathlib import Path
from selfplay.checkpoint import Generations

def work(folder, moment):
    generations = Generations(Path(folder), keep=2)
    def save(g):
        generations.save(g, {"x": jnp.full((64, 1024), g), "y": jnp.full(7, g)}, {"g": g}, blobs={"g": bytes([g])})
    for g in range(3):
        start = time.monotonic()
        save(g)
        last = time.monotonic() - start
    threading.Timer(moment * last, os.kill, (os.getpid(), signal.SIGKILL)).start()
    for g in range(3, 99):
        save(g)

for i, moment in enumerate(sys.argv[2:]):  # forked before jax has a backend: one import for all
    if os.fork() == 0:
        work(f"{sys.argv[1]}/{i}", float(moment))
print([os.wait()[1] for _ in sys.argv[2:]])
"""


def test_killed_at_any_moment_leaves_old_or_new(tmp_path: Path) -> None:
    moments = ["0.2", "0.7", "0.95", "1.6", "2.3"]  # in saves, from the end of generation 2
    out = subprocess.run([sys.executable, "-c", SAVER, str(tmp_path), *moments], capture_output=True, text=True)
    assert out.stdout == f"{[9] * len(moments)}\n", out.stderr
    like = {"x": np.zeros((64, 1024), np.int32), "y": np.zeros(7, np.int32)}
    for i in range(len(moments)):
        generations = Generations(tmp_path / str(i), keep=2, report=pytest.fail)
        newest = generations.newest()
        assert newest is not None and newest >= 2
        generations.clean()
        assert sorted(p.name for p in generations.folder.iterdir()) == [f"{g:04d}" for g in generations.all()]
        for g in generations.all():
            tree, state, blobs = generations.load(g, like)
            assert {*tree["x"].flat, *tree["y"].flat, state["g"], blobs["g"][0]} == {g}
    generations.save(100, like, {}, blobs={})
    assert generations.newest() == 100


def test_a_small_generation_saves_quickly(tmp_path: Path) -> None:
    params = {f"layer{i}": {"kernel": jnp.ones((128, 512))} for i in range(12)}  # 3 MB, and twice that of moments
    tree = {"policies": {"main": {"params": params, "opt_state": optax.adam(1e-3).init(params)}}}
    generations, seconds = Generations(tmp_path, keep=1), []
    for g in range(4):
        start = time.perf_counter()
        generations.save(g, tree, STATE, blobs=BLOBS)
        seconds.append(time.perf_counter() - start)
    print(f"save: {sorted(seconds)}")
    assert min(seconds) < 1.5  # 0.2 s measured; the machine may be busy


def test_orbax_is_imported_only_when_used() -> None:
    code = "import sys, selfplay.checkpoint; print('orbax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_folder_digest(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "x.json").write_text(json.dumps({"n": 1}))
    assert folder_digest(tmp_path / "a") == folder_digest(tmp_path / "b")
    (tmp_path / "b" / "sub" / "x.json").rename(tmp_path / "b" / "sub" / "y.json")
    assert folder_digest(tmp_path / "a") != folder_digest(tmp_path / "b")
