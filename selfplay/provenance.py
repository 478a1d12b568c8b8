"""What a run's numbers depend on besides its config: models, environments, code, and the machine."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from envs.base import Env
from selfplay.config import Run
from selfplay.errors import CheckpointError
from selfplay.models import Model


def provenance(run: Run, envs: Mapping[str, Env], models: Mapping[str, Model]) -> dict[str, Any]:
    """Plain data for the checkpoint: digests of the models, versions of environments and code, the machine."""
    packages = ("selfplay", "jax", "jaxlib", "flax", "optax", "numpy")
    return {
        "models": {name: model.digest for name, model in models.items()},
        "envs": {name: env.spec.version for name, env in envs.items()},
        "code": {name: importlib.metadata.version(name) for name in packages},
        "machine": {"cpu": _cpu(), "threads": run.cluster.threads},
    }


def _cpu() -> str:
    """A digest of the processor's feature flags: compiled programs, and so bits, depend on them."""
    info = Path("/proc/cpuinfo")
    flags = (
        [line for line in info.read_text().splitlines() if line.startswith(("flags", "Features"))]
        if info.exists()
        else []
    )
    return hashlib.sha256(flags[0].encode()).hexdigest()[:12] if flags else "unknown"


def check_provenance(saved: Mapping[str, Any], here: Mapping[str, Any], *, report: Callable[[str], None]) -> None:
    """Refuse what would change the meaning of a resumed run, warn of what may change its bits.

    Raises:
      CheckpointError: another model or environment version.
    """
    for kind, what in (("models", "model digest"), ("envs", "environment version")):
        for name, value in saved[kind].items():
            if here[kind].get(name) != value:
                raise CheckpointError(
                    f"{what} of {name} is {here[kind].get(name)} here, and {value} in the run: start a new run"
                )
    for kind in ("code", "machine"):
        for name, value in saved[kind].items():
            if here[kind].get(name) != value:
                report(f"warning: {name} is {here[kind].get(name)} here and was {value}: bits may differ from now on")
