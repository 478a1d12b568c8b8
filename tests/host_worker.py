"""`selfplay ARGUMENTS` as one of two processes, which draw by the joint sampler before they train.

    python tests/host_worker.py DRAWN.npz CASE train ...

What process 0 draws goes to DRAWN.npz, and what process 1 holds at last to DRAWN.txt.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from sampler_contract import keys, prompts

from selfplay import cli, learner
from selfplay.config import Lora, Run
from selfplay.hosts import Hosts
from selfplay.joint import Stop
from selfplay.joint_sampler import Call, Calls, Echo, JointSampler, Load
from selfplay.models import Params, load
from selfplay.models.lora import init_adapter, with_adapter
from selfplay.models.sharding import make_mesh, shard_params
from selfplay.records import PolicyRef, SamplingSpec, decode
from selfplay.sampler import LocalSampler, Sampler


@dataclass(frozen=True)
class Case:
    """What is drawn, and where."""

    mesh: Mapping[str, int]
    prompts: int
    first: SamplingSpec
    then: SamplingSpec
    rank: int = 0
    """Of an adapter, which is version 1; 0 = only the base, version 0."""


STOP = tuple("abcdefghijklmnop")
CASES = {
    "short": Case(  # the shapes of the run that follows: no program is compiled twice
        {"fsdp": 8}, 2, SamplingSpec(max_new_tokens=8, stop=STOP), SamplingSpec(max_new_tokens=8, temperature=1.5)
    ),
    "long": Case(
        {"data": 2, "fsdp": 2, "tensor": 2}, 8, SamplingSpec(max_new_tokens=48, temperature=1.5, stop=STOP),
        SamplingSpec(max_new_tokens=24, temperature=2.0, top_p=0.9), rank=4,
    ),
}  # fmt: skip


def draw(case: Case, sampler: Sampler, versions: Mapping[PolicyRef, Params]) -> dict[str, np.ndarray]:
    """Tokens and log-probabilities of calls with holes, rows that end early, a context continued twice."""
    rows = 4 * case.prompts
    given, more = prompts(case.prompts), prompts(rows, seed=3)
    given[1] = more[0] = None
    drawn = {}
    for ref, params in versions.items():
        sampler.load(ref, params)
        done, context = sampler.start(ref, given, keys(rows), case.first, attempts=4)
        longer, _ = sampler.extend(context, more, keys(rows, step=1), case.then)
        again, _ = sampler.extend(context, more, keys(rows, step=2), case.then)
        once = sampler.complete(ref, given, keys(rows, step=3), case.then, attempts=4)
        for name, completions in (("start", done), ("extend", longer), ("again", again), ("complete", once)):
            for field in ("ids", "logprobs"):
                drawn[f"{ref.version}.{name}.{field}"] = np.concatenate([getattr(c, field) for c in completions])
    return drawn


def local_sampler(case: Case, model: str | Path) -> tuple[LocalSampler, dict[PolicyRef, Params]]:
    """This process's sampler on the mesh, and the versions that it may load."""
    mesh = make_mesh(**case.mesh)
    opened = load(model, mesh=mesh)
    config = with_adapter(opened.config, Lora(rank=case.rank))
    versions = {PolicyRef("main", 0): opened.params}
    if case.rank:
        adapter = jax.tree.map(lambda a: np.asarray(a) + np.float32(0.02), init_adapter(config, jax.random.key(1)))
        versions[PolicyRef("main", 1)] = shard_params(adapter, mesh)
    return LocalSampler(config, opened.tokenizer, mesh), versions


def draw_together(case: Case, hosts: Hosts, model: str, out: Path) -> None:
    """Process 0 draws, and process 1 does what it hears."""
    here, versions = local_sampler(case, model)
    if hosts.leads:
        calls = Calls(hosts)
        sampler = JointSampler(here, calls)
        np.savez(out, **draw(case, sampler, versions))  # type: ignore[arg-type]
        gc.collect()
        sampler.drop(PolicyRef("main", 0))
        with calls.together(Stop()):
            return
    echo = Echo(hosts, {"main": here})
    while not isinstance(message := decode(hosts.receive(), Call | Stop), Stop):  # type: ignore[arg-type]  # a union
        if isinstance(message, Load):
            echo.published["main"] = versions[message.ref]
        echo.obey(message)
    out.with_suffix(".txt").write_text(f"{sorted(echo._contexts)} {[ref.version for ref in here._params]}")


def main(out: Path, case: Case, arguments: list[str]) -> int:
    train = learner.train

    def draw_first(run: Run, folder: Path, *, resume: bool, hosts: Hosts, actors: None) -> None:
        draw_together(case, hosts, run.policies["main"].model, out)
        train(run, folder, resume=resume, hosts=hosts, actors=actors)

    learner.train = draw_first  # type: ignore[assignment]
    return cli.main(arguments)


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), CASES[sys.argv[2]], sys.argv[3:]))
