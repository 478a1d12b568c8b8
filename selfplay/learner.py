"""The learner: draws units, refines what comes back, updates, publishes, evaluates, and keeps generations.

    units -> Groups -> refine -> update -> publish -> ... -> evaluate -> checkpoint

The loops are in `train`, `_generation` and `_step`; everything that computes is elsewhere.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import envs
from selfplay import recipe
from selfplay.archive import TaskArchive
from selfplay.arena import Arena
from selfplay.checkpoint import Generations
from selfplay.cluster import LocalCluster
from selfplay.config import Run
from selfplay.crew import Crew
from selfplay.evaluate import dev_solve_rates, held_out_scores, moving_solve_rates, next_objective, objective_curves
from selfplay.experience import (
    archive_metrics,
    baseline_curves,
    experience_metrics,
    panels,
    samples,
    staleness,
    task_lines,
)
from selfplay.heed import Heed
from selfplay.hosts import Hosts
from selfplay.joint import Joint, follow, open_models
from selfplay.metrics import Display, RunWriter, cut
from selfplay.opponents import Opponents
from selfplay.packing import minibatches
from selfplay.provenance import check_provenance, provenance
from selfplay.records import Unit
from selfplay.refine import Refined, refine
from selfplay.refiners import REFINERS, check_refiner
from selfplay.room import check_games, check_room
from selfplay.seats import is_new_opponent, seat, seats
from selfplay.state import State
from selfplay.streams import Stream, draw_seed, python_seed
from selfplay.units import (
    World,
    load_yoked,
    longest_completions,
    planned_sequences,
    seed_groups,
    step_units,
    uniform_objective,
)
from selfplay.watch import Watch


def train(
    run: Run,
    folder: Path,
    *,
    resume: bool = False,
    hosts: Hosts | None = None,
    actors: LocalCluster | None = None,
) -> None:
    """Train a run to its end, from its start or from the newest complete generation in `folder`.

    Of several processes, process 0 does so and the others follow it.

    Args:
      actors: those that wait already (`actor_processes.py`); the caller closes them. None = they are started here.

    Raises:
      UserError: something given cannot be used; nothing was written then.
      ActorError: an actor died or gave no answer in time.
    """
    if hosts is not None and not hosts.leads:
        follow(hosts)
        return
    learner = Learner(run, folder, hosts, actors)
    restored = resume and learner.restore()
    if restored and learner.finished():
        why = f" ({learner.state.stopped})" if learner.state.stopped else ""
        print(f"{folder} is finished: generation {learner.state.generation}, step {learner.state.step}{why}")
        learner.joint.stop()
        return
    while True:
        with learner.running(resumed=resume, restored=restored):
            if not restored:
                learner.end_generation()
            while not learner.finished() and learner.heed.action != "roll_back":
                learner.next_generation()
        if learner.heed.action != "roll_back":
            break
        learner.roll_back()
        resume = restored = True
    learner.joint.stop()
    if learner.state.stopped:
        print(f"{folder} was ended at step {learner.state.step}: {learner.state.stopped}", file=sys.stderr)


class Learner:
    """One run's learner: its state, and the rooms that the loop calls."""

    def __init__(self, run: Run, folder: Path, hosts: Hosts | None = None, actors: LocalCluster | None = None) -> None:
        self.run, self.folder = run, folder
        self.world = World({n: envs.make(n, **c.options) for n, c in run.envs.items()}, load_yoked(run))
        models = open_models(run)
        check_room(run, self.world, models)
        check_refiner(run, self.world.envs)
        check_games(run, self.world, models)
        hosts = hosts or Hosts()
        self.generations = Generations(folder / "generations", run.output.keep, report=self._say, hosts=hosts)
        self.joint = Joint(run, folder, models, self.generations, hosts)
        self.crew, self.arena = Crew(run, self.joint, actors), Arena(run, self.world.envs, models)
        self.provenance = provenance(run, self.world.envs, models)
        self.models = {name: replace(model, params={}) for name, model in models.items()}
        """Without their weights: those are `joint`'s."""
        self.state = State(
            archive=TaskArchive(run.archive.capacity, run.archive.retire),
            objective=uniform_objective(run, self.world.envs),
            opponents=Opponents(run.opponents),
        )
        self.state.archive.record(seed_groups(run, self.world.envs))
        self.refiner, self.heed = REFINERS[run.refine.kind], Heed(run.alarms)
        self._drawn, self._base_step = run, 0
        """The run as its draws are keyed, and the step that the generation began with."""
        self._began = time.monotonic()
        self._last: Refined | None = None

    # ------------------------------------------------------------ the beats

    def next_generation(self) -> None:
        """Its steps, and its end; alarms may cut it short, and one that rolls back leaves it unfinished."""
        state, run = self.state, self.run
        state.generation += 1
        self._base_step = state.step
        self._drawn = replace(run, seed=draw_seed(run.seed, state.roll_backs))
        if run.update.begin == "base":
            self.joint.restart()
        for _ in range(run.schedule.steps_per_generation):
            self.step()
            if self.heed.action != "log":
                break
        if self.heed.action != "roll_back":
            self.end_generation()

    def step(self) -> None:
        """One learner step: acquire, refine, update, publish, and say so."""
        state, run = self.state, self.run
        state.step += 1
        watch = Watch()
        units = step_units(
            self._drawn,
            self.world,
            generation=state.generation,
            step=state.step,
            seats=seats(run, newest=state.step - 1, began=self._base_step, memory=state.memory.digest),
            objective=state.objective,
            archive=state.archive,
            opponents=state.opponents,
            lessons=state.memory.lessons,
        )
        with watch("acquire"):
            units, groups, spent = self.crew.rounds(units, self.refiner)
        planned = planned_sequences(units)
        with watch("refine"):
            refined = refine(groups, run=run, planned=planned, baselines=state.baselines, scorer=self.joint)
            values = experience_metrics(refined, state.archive, run)
            state.archive.record([group for group in groups if not group.players])
            state.opponents.record(groups)
            state.memory = self.refiner.remember(run, self.world.envs, state.memory, groups)
        self.crew.let_go(began=self._base_step, past=state.opponents.versions())
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
        if self.heed.action == "stop":
            state.stopped = self.heed.reason
        whole = state.generation == 0 or self.finished()
        if is_new_opponent(run, state.generation):
            state.opponents.remember(state.step, state.generation)
        values: dict[str, float] = {}
        if whole or state.generation % run.evaluate.every == 0:
            with watch("evaluate"):
                values = self._evaluate(whole=whole)
            state.summary = dict(values)
            if run.objective.follow == "dev":
                state.objective = next_objective(run, self.world.envs, dev_solve_rates(values))
        self.joint.remember()
        values |= objective_curves(state.objective) | {
            "time/evaluate": watch["evaluate"],
            "progress/minutes": state.minutes,
        }
        drawn = self.writer.generation(state.generation, state.step, state.tokens, values)
        if self._last is not None:
            self.writer.transcripts(state.step, panels(self._last, state.archive, self.models))
        self.writer.flush()
        self.display.generation(state.generation, state.step, state.tokens, drawn)
        self._listen(drawn)
        if self.heed.action == "stop":
            state.stopped = self.heed.reason
        if self.heed.action != "roll_back":
            self._save()

    def finished(self) -> bool:
        """Whether the run has reached any of its limits; asked at a generation's end."""
        limits, state = self.run.schedule, self.state
        return (
            bool(state.stopped)
            or state.generation >= limits.generations
            or (limits.max_tokens is not None and state.tokens >= limits.max_tokens)
            or (limits.max_minutes is not None and state.minutes >= limits.max_minutes)
        )

    # ------------------------------------------------------------ evaluate, update, publish

    def _evaluate(self, *, whole: bool) -> dict[str, float]:
        """Scores of the newest weights on held-out tasks, and of their games against kept generations and bots."""
        state, run = self.state, self.run
        found = held_out_scores(
            run,
            self.world.envs,
            self.crew.groups,
            generation=state.generation,
            step=state.step,
            solver=seat(run, "solve", state.step, memory=state.memory.digest),
            lessons=state.memory.lessons,
            whole=whole,
        )
        found |= self.arena.rate(
            self.crew.groups,
            self.joint.logprobs,
            state.opponents,
            generation=state.generation,
            step=state.step,
            player=seat(run, "play", state.step),
        )
        self.writer.pictures(state.step, self.arena.pictures(state.opponents))
        return found

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
                seed=python_seed(self._drawn.seed, Stream.MINIBATCH, state.generation, state.step),
                multiple=self.joint.updaters[name].row_multiple,
                max_tokens=longest_completions(units),
            )
            reference = run.update.kl.place == "loss" and run.update.kl.estimator == "full"
            if (every := run.update.interference_every) and state.step % every == 0:
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
        """The new weights as version `step`; versions that no role plays as any more go."""
        self.crew.publish(newest=self.state.step, began=self._base_step, past=self.state.opponents.versions())

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
        self.crew.open()
        self.joint.prepare()
        self.display = Display(
            self.folder.name,
            generations=schedule.generations,
            done=self.state.step,
            steps=schedule.generations * schedule.steps_per_generation,
        )
        try:
            with RunWriter(self.folder, purge_step=purge, alarms=self.run.alarms) as self.writer:
                self.writer.hyperparameters(self.run)
                self._introduce()
                self._began = time.monotonic() - 60 * self.state.minutes
                yield
        finally:
            self.display.close()
            self.crew.close()

    def _introduce(self) -> None:
        """Give the actors all weights that they may play as, and say what the run is."""
        self.crew.introduce(self.models, self.state.opponents.pool(), newest=self.state.step)
        self._publish()
        models = ", ".join(f"{n} = {m.path.name} ({m.digest[:12]})" for n, m in self.models.items())
        line = f"step {self.state.step}, recipe {self.run.recipe}, seed {self.run.seed}, models {models}"
        self.writer.log(line)
        self.display.note(line)

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
            "perf/compilations": self.crew.compilations,
            "progress/tokens": state.tokens,
            "progress/episodes": state.episodes,
            "progress/roll_backs": state.roll_backs,
            "async/staleness_mean": staleness(refined, state.step - 1),
            "async/dropped": 0.0,
        } | archive_metrics(state.archive)
        if state.memory.lessons:
            values["memory/lessons"] = len(state.memory.lessons)
        written = self.writer.step(state.step, state.tokens, values)
        self.writer.tasks(task_lines(refined.groups))
        self.writer.samples(samples(refined, self.models, limit=self.run.output.samples_per_step))
        self.display.step(state.step, state.tokens, written)
        self._listen(written)

    def _listen(self, values: Mapping[str, float]) -> None:
        state = self.state
        self.heed.listen(values, step=state.step, roll_backs=state.roll_backs, log=self.writer.log)

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

    def roll_back(self) -> None:
        """Return to the last generation before the alarm, or to the one before where that was tried; draw otherwise.

        What was spent stays spent: tokens, episodes and minutes count on.
        """
        old, minutes = self.state, self._minutes()
        target = self.generations.earlier(old.generation, tried=old.rolled_to)
        self.generations.remove_after(target)
        self._take_up(target)
        new = self.state
        new.note_roll_back(old, target, minutes=minutes)
        self._base_step = new.step
        self._say(f"{self.heed.reason}: back to generation {target}, step {new.step}, with other draws")
        self.heed.forget()

    def _take_up(self, generation: int) -> None:
        self.state = State.restored(*self.joint.restore(generation), run=self.run)
        self.arena.restore(self.state.averages)
        self.joint.remember()

    def restore(self) -> bool:
        """Take up the newest complete generation; False = there is none."""
        self.generations.clean()
        newest = self.generations.newest()
        if newest is None:
            return False
        check_provenance(self.generations.load_state(newest)["provenance"], self.provenance, report=self._say)
        self._take_up(newest)
        self._base_step = self.state.step
        return True
