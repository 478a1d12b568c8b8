"""The learner: draws units, refines what comes back, updates, publishes, evaluates, and keeps generations.

    units -> Groups -> refine -> update -> publish -> ... -> evaluate -> checkpoint

The loops are in `train`, `_generation` and `_step`; everything that computes is elsewhere.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

import envs
from selfplay import recipe
from selfplay.actor import ENTRY
from selfplay.archive import TaskArchive
from selfplay.arena import Arena
from selfplay.checkpoint import Generations
from selfplay.cluster.base import Cluster
from selfplay.cluster.inprocess import InProcess
from selfplay.cluster.local import LocalCluster
from selfplay.compilations import Compilations
from selfplay.config import Run
from selfplay.evaluate import dev_solve_rates, moving_solve_rates, next_objective, scores
from selfplay.experience import (
    archive_metrics,
    baseline_curves,
    experience_metrics,
    panels,
    samples,
    staleness,
    task_lines,
)
from selfplay.hosts import Hosts
from selfplay.joint import Joint, actors_of, follow, open_models
from selfplay.metrics import Display, RunWriter, cut
from selfplay.opponents import Opponents
from selfplay.packing import minibatches
from selfplay.provenance import check_provenance, provenance
from selfplay.records import Group, PolicyRef, Role, Trajectory, Unit
from selfplay.refine import Refined, refine
from selfplay.room import check_games, check_room
from selfplay.state import State
from selfplay.streams import Stream, python_seed
from selfplay.units import (
    World,
    evaluation_units,
    load_yoked,
    longest_completions,
    planned_sequences,
    rating_units,
    step_units,
    uniform_objective,
)
from selfplay.watch import Watch


def train(run: Run, folder: Path, *, resume: bool = False, hosts: Hosts | None = None) -> None:
    """Train a run to its end, from its start or from the newest complete generation in `folder`.

    Of several processes, process 0 does so and the others follow it.

    Raises:
      UserError: something given cannot be used; nothing was written then.
      ActorError: an actor died or gave no answer in time.
    """
    if hosts is not None and not hosts.leads:
        follow(hosts)
        return
    learner = Learner(run, folder, hosts)
    restored = resume and learner.restore()
    if restored and learner.finished():
        print(f"{folder} is finished: generation {learner.state.generation}, step {learner.state.step}")
        learner.joint.stop()
        return
    with learner.running(resumed=resume, restored=restored):
        if not restored:
            learner.end_generation()
        while not learner.finished():
            learner.state.generation += 1
            for _ in range(run.schedule.steps_per_generation):
                learner.step()
            learner.end_generation()
    learner.joint.stop()


class Learner:
    """One run's learner: its state, and the rooms that the loop calls."""

    def __init__(self, run: Run, folder: Path, hosts: Hosts | None = None) -> None:
        self.run, self.folder = run, folder
        self.world = World({n: envs.make(n, **c.options) for n, c in run.envs.items()}, load_yoked(run))
        models = open_models(run)
        check_room(run, self.world, models)
        check_games(run, self.world, models)
        hosts = hosts or Hosts()
        self.generations = Generations(folder / "generations", run.output.keep, report=self._say, hosts=hosts)
        self.joint = Joint(run, folder, models, self.generations, hosts)
        self.arena = Arena(run, self.world.envs, models)
        self.provenance = provenance(run, self.world.envs, models)
        self.models = {name: replace(model, params={}) for name, model in models.items()}
        """Without their weights: those are `joint`'s."""
        self.state = State(
            archive=TaskArchive(run.archive.capacity, run.archive.retire),
            objective=uniform_objective(run, self.world.envs),
            opponents=Opponents(run.opponents),
        )
        self._began = time.monotonic()
        self._compilations, self._compiled_elsewhere = Compilations(), 0
        self._last: Refined | None = None

    # ------------------------------------------------------------ the three beats

    def step(self) -> None:
        """One learner step: acquire, refine, update, publish, and say so."""
        state, run = self.state, self.run
        state.step += 1
        watch = Watch()
        units = step_units(
            run,
            self.world,
            generation=state.generation,
            step=state.step,
            seats=self._seats(),
            objective=state.objective,
            archive=state.archive,
            opponents=state.opponents,
        )
        with watch("acquire"):
            groups, spent = self._acquire(units)
        planned = planned_sequences(units)
        with watch("refine"):
            refined = refine(groups, run=run, planned=planned, baselines=state.baselines, scorer=self)
            values = experience_metrics(refined, state.archive, run)
            state.archive.record([group for group in groups if not group.players])
            state.opponents.record(groups)
        with watch("update"):
            values |= self._update(refined, units)
        state.baselines = refined.baselines
        if run.objective.follow == "train":
            state.solve_rates = moving_solve_rates(state.solve_rates, groups, decay=run.objective.ema_decay)
            state.objective = next_objective(run, self.world.envs, state.solve_rates)
        with watch("publish"):
            self._publish()
        self.arena.average(self.joint.logprobs, step=state.step)
        fresh = sum(int(p.trajectory.mask.sum()) for p in refined.paid)
        state.tokens += fresh
        state.episodes += len(refined.paid)
        self._last = refined
        self._record_step(refined, values | baseline_curves(state.baselines), watch, spent, fresh)

    def end_generation(self) -> None:
        """Evaluate, set the next objective, write everything down, and save the generation."""
        state, run, watch = self.state, self.run, Watch()
        state.minutes = self._minutes()
        whole = state.generation == 0 or self.finished()
        if run.plays:
            state.opponents.remember(state.step, state.generation)
        values: dict[str, float] = {}
        if whole or state.generation % run.evaluate.every == 0:
            with watch("evaluate"):
                values = self._evaluate(whole=whole) | self._play_ratings()
            state.summary = dict(values)
            if run.objective.follow == "dev":
                state.objective = next_objective(run, self.world.envs, dev_solve_rates(values))
        self.joint.remember()
        weights = {f"objective/{_two_parts(name)}": w for name, w in state.objective.items()}
        values |= weights | {"time/evaluate": watch["evaluate"], "progress/minutes": state.minutes}
        drawn = self.writer.generation(state.generation, state.step, state.tokens, values)
        if self._last is not None:
            self.writer.transcripts(state.step, panels(self._last, state.archive, self.models))
        self.writer.flush()
        self.display.generation(state.generation, state.step, state.tokens, drawn)
        self._save()

    def finished(self) -> bool:
        """Whether the run has reached any of its limits; asked at a generation's end."""
        limits, state = self.run.schedule, self.state
        return (
            state.generation >= limits.generations
            or (limits.max_tokens is not None and state.tokens >= limits.max_tokens)
            or (limits.max_minutes is not None and state.minutes >= limits.max_minutes)
        )

    # ------------------------------------------------------------ acquire

    def _seats(self) -> dict[Role, PolicyRef]:
        """Who plays what: the newest weights, or the base for a role that is not trained."""
        roles = {name: self.run.roles[name] for name in self.run.used_roles}
        return {
            name: PolicyRef(role.policy, self.state.step - 1 if role.trainable else 0) for name, role in roles.items()
        }

    def _acquire(self, units: Sequence[Unit]) -> tuple[list[Group], dict[str, float]]:
        groups: list[Group] = []
        spent: dict[str, float] = {}
        here = Compilations()
        for _, found, timings in self.cluster.run(units):
            groups += found
            for name, seconds in timings.items():
                spent[name] = spent.get(name, 0.0) + seconds
        self._compiled_elsewhere += int(spent.get("compilations", 0)) - here.count()
        return groups, spent

    def _evaluate(self, *, whole: bool) -> dict[str, float]:
        state, role, plan = self.state, self.run.roles["solve"], self.run.evaluate
        solver = PolicyRef(role.policy, state.step if role.trainable else 0)
        units = evaluation_units(
            self.run,
            self.world.envs,
            generation=state.generation,
            step=state.step,
            solver=solver,
            tasks={"dev": plan.tasks_between, "test": plan.tasks if whole else plan.tasks_between},
        )
        return scores(self._acquire(units)[0])

    def _play_ratings(self) -> dict[str, float]:
        """Games of the newest weights against every scripted player and kept generation; what games tell."""
        state, role = self.state, self.run.roles["play"]
        units = rating_units(
            self.run,
            self.world.envs,
            state.opponents,
            generation=state.generation,
            step=state.step,
            player=PolicyRef(role.policy, state.step if role.trainable else 0),
        )
        state.opponents.record(self._acquire(units)[0])
        self.writer.pictures(state.step, self.arena.pictures(state.opponents))
        return self.arena.curves(state.opponents, self.joint.logprobs)

    # ------------------------------------------------------------ refine's questions to the weights

    def values(self, trajectories: Sequence[Trajectory]) -> list[np.ndarray]:
        """The critic's values, each trajectory by its own policy."""
        return self._by_policy(trajectories, self.joint.values)

    def reference_logprobs(self, trajectories: Sequence[Trajectory]) -> list[np.ndarray]:
        """Log-probabilities under the reference of update.kl, each trajectory by its own policy."""
        return self._by_policy(trajectories, self.joint.reference_logprobs)

    def _by_policy(
        self, trajectories: Sequence[Trajectory], ask: Callable[[str, Sequence[Trajectory]], list[np.ndarray]]
    ) -> list[np.ndarray]:
        out: list[np.ndarray] = [np.zeros(0, np.float32)] * len(trajectories)
        for name in self.models:
            mine = [i for i, t in enumerate(trajectories) if t.policy.policy == name]
            for i, array in zip(mine, ask(name, [trajectories[i] for i in mine]) if mine else [], strict=True):
                out[i] = array
        return out

    # ------------------------------------------------------------ update and publish

    def _update(self, refined: Refined, units: Sequence[Unit]) -> dict[str, float]:
        """Gradient steps of every policy that some role trains."""
        state, run = self.state, self.run
        values: dict[str, float] = {}
        for name in run.trained_policies:
            batches = minibatches(
                refined.items,
                policy=name,
                planned=refined.planned,
                roles=run.roles,
                update=run.update,
                seed=python_seed(run.seed, Stream.MINIBATCH, state.generation, state.step),
                multiple=self.joint.updaters[name].row_multiple,
                max_tokens=longest_completions(units),
            )
            reference = run.update.kl.place == "loss" and run.update.kl.estimator == "full"
            every = run.update.interference_every
            if every and state.step % every == 0:
                values |= self.joint.interference(name, batches, reference=reference)
            values |= self.joint.step(
                name,
                batches,
                reference=reference,
                done=self._done(),
                critic_only=state.step <= run.update.critic.warmup_steps and run.update.critic.kind != "none",
            )
        return values

    def _done(self) -> float:
        """Share of the schedule that was behind before this step, by steps or by tokens."""
        limits, state = self.run.schedule, self.state
        by_steps = (state.step - 1) / (limits.generations * limits.steps_per_generation)
        return max(by_steps, state.tokens / limits.max_tokens if limits.max_tokens else 0.0)

    def _publish(self) -> None:
        """The new weights as version `step`, in place of those before; the base stays where a role plays it."""
        frozen = {r.policy for r in self.run.roles.values() if not r.trainable}
        step, past = self.state.step, self.state.opponents.versions()
        for name in self.run.trained_policies if step else ():
            self.cluster.publish(name, step, self.joint.publish(name))
            kept = past if self.run.plays and name == self.run.roles["play"].policy else ()
            self.cluster.retire(name, {step, *kept, *((0,) if name in frozen else ())})

    # ------------------------------------------------------------ a run's life

    @contextmanager
    def running(self, *, resumed: bool, restored: bool) -> Iterator[None]:
        """Open the run folder, the actors and the display; close them whatever happens."""
        self.folder.mkdir(parents=True, exist_ok=True)
        recipe.write(self.run, self.folder)
        if resumed:
            cut(self.folder, self.state.step if restored else -1)
        purge = None if not resumed else self.state.step + 1 if restored else 0
        schedule = self.run.schedule
        self.cluster = self._open_cluster()
        self.display = Display(
            self.folder.name,
            generations=schedule.generations,
            done=self.state.step,
            steps=schedule.generations * schedule.steps_per_generation,
        )
        try:
            with RunWriter(self.folder, purge_step=purge) as self.writer:
                self.writer.hyperparameters(self.run)
                self._introduce()
                self._began = time.monotonic() - 60 * self.state.minutes
                yield
        finally:
            self.display.close()
            self.cluster.close()

    def _introduce(self) -> None:
        """Give the actors their first weights: the base, and the restored version if there is one."""
        for name in self.models:
            self.cluster.publish(name, 0, self.joint.publish(name, base=True))
        player = self.run.roles["play"].policy
        for generation, version in self.state.opponents.pool().items():
            if version not in (0, self.state.step):
                self.cluster.publish(player, version, self.joint.past(player, generation))
        self._publish()
        models = ", ".join(f"{n} = {m.path.name} ({m.digest[:12]})" for n, m in self.models.items())
        line = f"step {self.state.step}, recipe {self.run.recipe}, seed {self.run.seed}, models {models}"
        self.writer.log(line)
        self.display.note(line)

    def _open_cluster(self) -> Cluster:
        actors, plan = actors_of(self.run), self.run.cluster
        if actors == 0:
            return InProcess(self.joint.worker())
        if plan.threads == "auto":
            raise ValueError("cluster.threads is fixed when a run is created")
        return LocalCluster(actors, ENTRY, self.joint.worker_spec, threads=plan.threads, timeout_s=plan.timeout_s)

    def _record_step(
        self, refined: Refined, values: dict[str, float], watch: Watch, spent: Mapping[str, float], fresh: int
    ) -> None:
        state, total = self.state, watch.total()
        values |= {
            "time/sample": spent.get("sample_s", 0.0),
            "time/verify": spent.get("verify_s", 0.0),
            "time/acquire": watch["acquire"],
            "time/refine": watch["refine"],
            "time/update": watch["update"],
            "time/publish": watch["publish"],
            "time/step": total,
            "perf/tokens_per_s": fresh / total,
            "perf/compilations": self._compilations.count() + self._compiled_elsewhere,
            "progress/tokens": state.tokens,
            "progress/episodes": state.episodes,
            "async/staleness_mean": staleness(refined, state.step - 1),
            "async/dropped": 0.0,
        } | archive_metrics(state.archive)
        written = self.writer.step(state.step, state.tokens, values)
        self.writer.tasks(task_lines(refined.groups))
        self.writer.samples(samples(refined, self.models, limit=self.run.output.samples_per_step))
        self.display.step(state.step, state.tokens, written)

    def _minutes(self) -> float:
        return (time.monotonic() - self._began) / 60

    def _say(self, line: str) -> None:
        """Before the display opens: damaged generations passed over, another machine."""
        print(line, file=sys.stderr, flush=True)

    # ------------------------------------------------------------ save and restore

    def _save(self) -> None:
        record = {"provenance": self.provenance, "config": recipe.to_toml(self.run)}
        exempt = self.state.opponents.generations()
        self.state.averages = self.arena.state()
        self.joint.save(self.state.generation, self.state.record() | record, self.state.blobs(), exempt)

    def restore(self) -> bool:
        """Take up the newest complete generation; False = there is none."""
        self.generations.clean()
        newest = self.generations.newest()
        if newest is None:
            return False
        check_provenance(self.generations.load_state(newest)["provenance"], self.provenance, report=self._say)
        self.state = State.restored(*self.joint.restore(newest), run=self.run)
        self.arena.restore(self.state.averages)
        self.joint.remember()
        return True


def _two_parts(name: str) -> str:
    """ "env/mode/difficulty" without the mode where the environment has but one to tell apart."""
    env, _, difficulty = name.rsplit("/", 2)
    return f"{env}/{difficulty}"
