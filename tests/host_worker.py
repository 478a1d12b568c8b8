"""`selfplay ARGUMENTS` as one of two processes; before it trains, both draw by the joint sampler on another mesh.

    python tests/host_worker.py DRAWN.npz train ...

What process 0 draws goes to DRAWN.npz, and what process 1 still holds then to DRAWN.txt.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import numpy as np

from selfplay.records import PolicyRef, SamplingSpec

MESH = {"fsdp": 4, "tensor": 2}
STOP = tuple("abcdefghijkl")
SPECS = (
    SamplingSpec(max_new_tokens=24, temperature=1.5, stop=STOP),
    SamplingSpec(max_new_tokens=16, temperature=2.0, top_p=0.9),
)
BASE, ADAPTED = PolicyRef("main", 0), PolicyRef("main", 1)


def draw(sampler: Any, versions: dict[PolicyRef, Any]) -> dict[str, np.ndarray]:
    """Tokens and log-probabilities of calls with holes, rows that end early, a context continued twice."""
    from tests.sampler_contract import keys, prompts

    given, more = prompts(8), prompts(32, seed=3)
    given[3] = more[9] = None
    drawn = {}
    for ref, params in versions.items():
        sampler.load(ref, params)
        done, context = sampler.start(ref, given, keys(32), SPECS[0], attempts=4)
        longer, _ = sampler.extend(context, more, keys(32, step=1), SPECS[1])
        again, _ = sampler.extend(context, more, keys(32, step=1), SPECS[1])
        for name, completions in (("start", done), ("extend", longer), ("again", again)):
            for field in ("ids", "logprobs"):
                drawn[f"{ref.version}.{name}.{field}"] = np.concatenate([getattr(c, field) for c in completions])
    return drawn


def local_sampler(model: str) -> tuple[Any, dict[PolicyRef, Any]]:
    """The sampler of an adapted model on MESH, and two versions: the base, and an adapter to it."""
    import jax

    from selfplay.config import Lora
    from selfplay.models import load
    from selfplay.models.lora import init_adapter, with_adapter
    from selfplay.models.sharding import make_mesh, shard_params
    from selfplay.sampler import LocalSampler

    mesh = make_mesh(**MESH)
    opened = load(model, mesh=mesh)
    config = with_adapter(opened.config, Lora(rank=4))
    adapter = jax.tree.map(lambda a: np.asarray(a) + np.float32(0.02), init_adapter(config, jax.random.key(1)))
    sampler = LocalSampler(config, opened.tokenizer, mesh)
    return sampler, {BASE: opened.params, ADAPTED: shard_params(adapter, mesh)}


def draw_together(hosts: Any, model: str, out: Path) -> None:
    """The same by both processes: process 0 draws, process 1 does what it hears."""
    from selfplay.joint import Stop
    from selfplay.joint_sampler import Call, Calls, Echo, JointSampler, Load
    from selfplay.records import decode

    here, versions = local_sampler(model)
    if hosts.leads:
        calls = Calls(hosts)
        sampler = JointSampler(here, calls)
        np.savez(out, **draw(sampler, versions))
        sampler.drop(ADAPTED)
        gc.collect()
        with calls.together(Stop()):
            return
    echo = Echo(hosts, {"main": here})
    while not isinstance(message := decode(hosts.receive(), Call | Stop), Stop):  # type: ignore[arg-type]  # a union
        if isinstance(message, Load):
            echo.published["main"] = versions[message.ref]
        echo.obey(message)
    out.with_suffix(".txt").write_text(f"{sorted(echo._contexts)} {[ref.version for ref in here._params]}")


def main(out: Path, arguments: list[str]) -> int:
    from selfplay import cli, learner

    train = learner.train

    def draw_first(run: Any, folder: Path, *, resume: bool, hosts: Any) -> None:
        draw_together(hosts, run.policies["main"].model, out)
        train(run, folder, resume=resume, hosts=hosts)

    learner.train = draw_first
    return cli.main(arguments)


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), sys.argv[2:]))
