"""What all processes of the learner do together: everything that touches the sharded weights.

Process 0 calls these methods; each first says itself to the others as a message, and they, in `follow`, call the same
method with the same arguments. So every process runs the same compiled programs in the same order, on global arrays. A
run of one process calls them too, and says nothing to nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import msgspec
import numpy as np
from jax.sharding import Mesh

from envs.base import digest
from selfplay import recipe
from selfplay.actor import Actor, make_speakers, make_worker
from selfplay.checkpoint import Generations
from selfplay.config import Run
from selfplay.errors import UserError
from selfplay.hosts import Hosts
from selfplay.joint_sampler import Call, Calls, Complete, Continue, Draw, Echo, Forget, JointSampler, Load
from selfplay.models import Model, Params, init_params, load
from selfplay.models.lora import with_adapter
from selfplay.models.sharding import make_mesh, shard_params
from selfplay.programs import PolicyState
from selfplay.records import Batch, Trajectory, decode
from selfplay.streams import Stream, stream_key
from selfplay.tree import plain
from selfplay.update import Updater


class Start(msgspec.Struct, frozen=True, tag=True):
    """First message: the run as process 0 has it, its folder, and the digests of the models that all must have."""

    config: str
    folder: str
    digests: dict[str, str]


class Step(msgspec.Struct, frozen=True, tag=True):
    policy: str
    batches: list[Batch]
    reference: bool
    done: float
    critic_only: bool


class Interference(msgspec.Struct, frozen=True, tag=True):
    policy: str
    batches: list[Batch]
    reference: bool


class Values(msgspec.Struct, frozen=True, tag=True):
    policy: str
    trajectories: list[Trajectory]


class ReferenceLogprobs(msgspec.Struct, frozen=True, tag=True):
    policy: str
    trajectories: list[Trajectory]


class Remember(msgspec.Struct, frozen=True, tag=True):
    pass


class Restart(msgspec.Struct, frozen=True, tag=True):
    pass


class Logprobs(msgspec.Struct, frozen=True, tag=True):
    policy: str
    trajectories: list[Trajectory]


class Past(msgspec.Struct, frozen=True, tag=True):
    policy: str
    generation: int


class Publish(msgspec.Struct, frozen=True, tag=True):
    policy: str
    base: bool


class Save(msgspec.Struct, frozen=True, tag=True):
    generation: int


class Restore(msgspec.Struct, frozen=True, tag=True):
    generation: int


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Leave in good order."""


Message = (
    Step
    | Interference
    | Values
    | ReferenceLogprobs
    | Logprobs
    | Remember
    | Restart
    | Past
    | Publish
    | Save
    | Restore
    | Stop
    | Call
)


class Joint:
    """The policies of a run on the mesh of all its processes."""

    def __init__(
        self, run: Run, folder: Path, models: Mapping[str, Model], generations: Generations, hosts: Hosts
    ) -> None:
        self.run, self.generations, self.hosts, self.calls = run, generations, hosts, Calls(hosts)
        start = Start(recipe.to_toml(run), str(folder.absolute()), {n: m.digest for n, m in models.items()})
        with hosts.together(start):
            self.mesh = mesh_of(run)
            self.updaters = {name: self._updater(name, model) for name, model in models.items()}
            self._bases = {name: model.params for name, model in models.items()}
            self.policies = self._fresh()
        kl, begin = run.update.kl, run.update.begin
        referred = kl.place != "none" and kl.reference == "base"
        self._keeps_base = referred or begin == "base" or run.alarms.rolls_back
        paths = {name: replace(policy, model=str(models[name].path)) for name, policy in run.policies.items()}
        self.worker_spec: dict[str, Any] = {"policies": {name: plain(policy) for name, policy in paths.items()}}
        """What an actor is made from."""
        self._prepared: list[Future[None]] = []
        self.previous: dict[str, Params] = {}
        """Weights at the start of the generation, for kl.reference = previous_generation."""

    def prepare(self) -> None:
        """Compile the updates in a thread while actors, which are other processes, evaluate the base."""
        if actors_of(self.run) and not self.mesh.is_multi_process:
            pool = ThreadPoolExecutor(1)
            self._prepared = [pool.submit(updater.prepare) for updater in self.updaters.values()]
            pool.shutdown(wait=False)

    def step(
        self, policy: str, batches: Sequence[Batch], *, reference: bool, done: float, critic_only: bool
    ) -> dict[str, float]:
        """Gradient steps on the batches; see `Updater.step`. `reference` = it needs the reference's weights."""
        while self._prepared:
            self._prepared.pop().result()
        with self.calls.together(Step(policy, list(batches), reference, done, critic_only)):
            self.policies[policy], measured = self.updaters[policy].step(
                self.policies[policy],
                batches,
                references=self._reference(policy) if reference else None,
                done=done,
                critic_only=critic_only,
            )
        return measured

    def interference(self, policy: str, batches: Sequence[Batch], *, reference: bool) -> dict[str, float]:
        """How far the roles pull apart; see `Updater.interference`."""
        with self.calls.together(Interference(policy, list(batches), reference)):
            references = self._reference(policy) if reference else None
            return self.updaters[policy].interference(self.policies[policy], batches, references)

    def values(self, trajectories: Sequence[Trajectory]) -> list[np.ndarray]:
        """The critic's values, [n] a trajectory, each by its own policy."""
        return self._by_policy(trajectories, self.policy_values)

    def reference_logprobs(self, trajectories: Sequence[Trajectory]) -> list[np.ndarray]:
        """Log-probabilities under the reference of update.kl, [n] a trajectory, each by its own policy's."""
        return self._by_policy(trajectories, self.policy_reference_logprobs)

    def _by_policy(
        self, trajectories: Sequence[Trajectory], ask: Callable[[str, Sequence[Trajectory]], list[np.ndarray]]
    ) -> list[np.ndarray]:
        out: list[np.ndarray] = [np.zeros(0, np.float32)] * len(trajectories)
        for name in self.policies:
            mine = [i for i, t in enumerate(trajectories) if t.policy.policy == name]
            for i, array in zip(mine, ask(name, [trajectories[i] for i in mine]) if mine else [], strict=True):
                out[i] = array
        return out

    def policy_values(self, policy: str, trajectories: Sequence[Trajectory]) -> list[np.ndarray]:
        """The critic's values of one policy's trajectories."""
        with self.calls.together(Values(policy, list(trajectories))):
            return self.updaters[policy].values(self.policies[policy], trajectories)

    def policy_reference_logprobs(self, policy: str, trajectories: Sequence[Trajectory]) -> list[np.ndarray]:
        """Log-probabilities of one policy's trajectories under its reference."""
        with self.calls.together(ReferenceLogprobs(policy, list(trajectories))):
            return self.updaters[policy].logprobs(self._reference(policy), trajectories)

    def logprobs(self, policy: str, trajectories: Sequence[Trajectory]) -> list[np.ndarray]:
        """Log-probabilities under the weights as they are now, [n] a trajectory."""
        with self.calls.together(Logprobs(policy, list(trajectories))):
            updater = self.updaters[policy]
            return updater.logprobs(updater.weights(self.policies[policy].params), trajectories)

    def past(self, policy: str, generation: int) -> Params:
        """What was trained, as a kept generation has it; lies as `publish` lets it lie."""
        with self.calls.together(Past(policy, generation)):
            found = self.generations.load_params(generation, policy, self.policies[policy].params)
            dtype = self.updaters[policy].dtype
            params: Params = jax.tree.map(lambda x: x.astype(dtype), found)
            return self._for_actors(params)

    def remember(self) -> None:
        """A generation ends: its weights are the previous ones from now on, where a reference reads them."""
        if self.run.update.kl.reference == "previous_generation":
            with self.calls.together(Remember()):
                self.previous = {name: self.updaters[name].publish(state) for name, state in self.policies.items()}

    def restart(self) -> None:
        """Every policy starts again from its base, with a fresh optimizer (and critic)."""
        with self.calls.together(Restart()):
            self.policies = self._fresh()

    def publish(self, policy: str, *, base: bool = False) -> Params:
        """What is trained, as it is now, or all of the base: to be leased as a version. It lies as the learner has it;
        for actor processes of a learner of several, whole NumPy arrays (at process 0; nothing elsewhere)."""
        with self.calls.together(Publish(policy, base)):
            if not base:
                params = self.updaters[policy].publish(self.policies[policy])
            elif self._keeps_base or self.run.policies[policy].lora.rank:
                params = self._bases[policy]
            else:  # from now on nobody here reads it
                params = self._bases.pop(policy)
            return self._for_actors(params)

    def _for_actors(self, params: Params) -> Params:
        """As it lies, but whole where actor processes of a learner of several are to have it."""
        if self.mesh.is_multi_process and actors_of(self.run):
            return self.hosts.fetch(params) or {}
        return params

    def worker(self) -> Actor:
        """The actor within the learner, which samples on the learner's mesh."""
        if not self.mesh.is_multi_process:
            return make_worker(self.worker_spec, self.mesh if self.mesh.size > 1 else None)
        speakers = make_speakers(self.worker_spec, self.mesh)
        return Actor({n: replace(s, sampler=JointSampler(s.sampler, self.calls)) for n, s in speakers.items()})

    def save(
        self, generation: int, record: Mapping[str, Any], blobs: Mapping[str, bytes], exempt: Collection[int] = ()
    ) -> None:
        """Write a generation; record, blobs and what retention leaves alone are process 0's to give."""
        with self.calls.together(Save(generation)):
            self.generations.save(generation, self._arrays(), record, blobs=blobs, exempt=exempt)

    def restore(self, generation: int) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Take up the weights of a complete generation, from whatever mesh; returns its record and its blobs."""
        with self.calls.together(Restore(generation)):
            arrays, record, blobs = self.generations.load(generation, self._arrays())
            self.policies = {name: PolicyState(**fields) for name, fields in arrays["policies"].items()}
        return record, blobs

    def stop(self) -> None:
        """The run is over: let the other processes go."""
        with self.calls.together(Stop()):
            pass

    def _fresh(self) -> dict[str, PolicyState]:
        keys = {name: stream_key(self.run.seed, Stream.INIT, i) for i, name in enumerate(sorted(self._bases))}
        return {name: updater.init(self._bases[name], keys[name]) for name, updater in self.updaters.items()}

    def _arrays(self) -> dict[str, Any]:
        return {"policies": {name: vars(state) for name, state in self.policies.items()}}

    def _reference(self, policy: str) -> Params:
        """All weights of the reference; with LoRA the base is the policy's own, its adapter left out."""
        if self.run.update.kl.reference == "base":
            return self._bases[policy]
        return self.updaters[policy].weights(self.previous[policy])

    def _updater(self, policy: str, model: Model) -> Updater:
        chosen = self.run.policies[policy]
        config = with_adapter(model.config, chosen.lora)
        return Updater(config, self.run.update, self.run.roles, self.mesh, dtype=chosen.dtype)


def mesh_of(run: Run) -> Mesh:
    """The mesh that a run asks for."""
    return make_mesh(run.mesh.data, run.mesh.fsdp, run.mesh.tensor)


def actors_of(run: Run) -> int:
    """Actor processes of a run; 0 = the learner samples."""
    actors = run.cluster.actors
    if actors == "auto":
        return 1 if jax.default_backend() == "cpu" else 0
    return actors


def open_models(run: Run) -> dict[str, Model]:
    """Every policy's model, its weights laid out on the mesh in the policy's dtype; no other copy of them is made."""
    mesh = mesh_of(run)
    models = {name: load(p.model, dtype=p.dtype, mesh=mesh) for name, p in run.policies.items()}
    anew = [name for name, p in run.policies.items() if p.weights == "random"]
    return models | {name: _drawn_anew(models[name], run, name, mesh) for name in anew}


def _drawn_anew(model: Model, run: Run, name: str, mesh: Mesh) -> Model:
    """A model with fresh weights, which follow from the run's seed and the policy's name."""
    key = stream_key(run.seed, Stream.INIT, 1, sorted(run.policies).index(name))  # the critics' have no 1
    params = shard_params(init_params(model.config, key, run.policies[name].dtype), mesh)
    return replace(model, params=params, digest=digest(model.digest, "random", str(run.seed)))


def follow(hosts: Hosts) -> None:
    """The life of every process but process 0: do what it says until it says stop.

    Raises:
      UserError: this process finds another model than process 0 has.
    """
    start = decode(hosts.receive(), Start)
    run, folder = recipe.from_text(start.config), Path(start.folder)
    models = open_models(run)
    for name, model in models.items():
        if model.digest != start.digests[name]:
            here = f"model {model.path} has digest {model.digest[:12]} at process {hosts.process}"
            raise UserError(f"{here} and {start.digests[name][:12]} at process 0: all need the same files")
    joint = Joint(run, folder, models, Generations(folder / "generations", run.output.keep, hosts=hosts), hosts)
    del models
    speakers = {} if actors_of(run) else make_speakers(joint.worker_spec, joint.mesh)
    echo = Echo(hosts, {name: speaker.sampler for name, speaker in speakers.items()})
    while not isinstance(message := _next(hosts), Stop):
        _obey(joint, echo, message)


def _next(hosts: Hosts) -> Message:
    message: Message = decode(hosts.receive(), Message)  # type: ignore[arg-type]  # a union
    return message


def _obey(joint: Joint, echo: Echo, message: Message) -> None:
    match message:
        case Step(policy, batches, reference, done, critic_only):
            joint.step(policy, batches, reference=reference, done=done, critic_only=critic_only)
        case Interference(policy, batches, reference):
            joint.interference(policy, batches, reference=reference)
        case Values(policy, trajectories):
            joint.policy_values(policy, trajectories)
        case ReferenceLogprobs(policy, trajectories):
            joint.policy_reference_logprobs(policy, trajectories)
        case Logprobs(policy, trajectories):
            joint.logprobs(policy, trajectories)
        case Past(policy, generation):
            echo.published[policy] = joint.past(policy, generation)
        case Remember():
            joint.remember()
        case Restart():
            joint.restart()
        case Publish(policy, base):
            echo.published[policy] = joint.publish(policy, base=base)
        case Save(generation):
            joint.save(generation, {}, {})
        case Restore(generation):
            joint.restore(generation)
        case Load() | Draw() | Continue() | Complete() | Forget():
            echo.obey(message)
        case _:
            raise ValueError(f"process 0 said {type(message).__name__} out of turn")
