"""What every test leans on: eight pretend CPU devices, a compilation cache between runs, short property tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

CACHE = Path(__file__).parent.parent / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
from hypothesis import settings  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)

settings.register_profile("selfplay", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("selfplay")


@pytest.fixture(scope="session")
def tiny():
    """The embedded model, opened once."""
    from selfplay.models import load

    return load("tiny")


@pytest.fixture
def actors_find_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Actors of as many devices as we have: the cache keeps their programs apart by that, and they find ours."""
    from selfplay.cluster import local

    plain = local.actor_environment
    devices = {"JAX_NUM_CPU_DEVICES": str(jax.config.jax_num_cpu_devices)}
    monkeypatch.setattr(local, "actor_environment", lambda *a, **k: plain(*a, **k) | devices)


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model folder with random weights."""
    from small_runs import save_random

    return save_random(tmp_path_factory.mktemp("models") / "random")
