"""How long a run lasts, where it runs, how it is measured and what it keeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from selfplay.config.bounds import check

Follow = Literal["fixed", "dev", "train"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long a run lasts. Every limit is looked at when a generation ends."""

    generations: int = 10
    """Generations to train; generation 0 is the untouched base."""
    steps_per_generation: int = 10
    """Learner steps in a generation."""
    max_tokens: int | None = None
    """Stop at the end of the generation in which this many tokens have been sampled, every role counted."""
    max_minutes: float | None = None
    """Stop at the end of the generation in which this much wall-clock time of training has passed."""

    def __post_init__(self) -> None:
        check(self.generations >= 1, "schedule.generations", ">= 1", self.generations)
        check(self.steps_per_generation >= 1, "schedule.steps_per_generation", ">= 1", self.steps_per_generation)
        check(self.max_tokens is None or self.max_tokens > 0, "schedule.max_tokens", "> 0", self.max_tokens)
        check(self.max_minutes is None or self.max_minutes > 0, "schedule.max_minutes", "> 0", self.max_minutes)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where actors run. No field here changes the numbers of a synchronous run, but `threads`."""

    actors: int | Literal["auto"] = "auto"
    """Actor processes; 0 = sample inside the learner's process; auto = 1 on CPU, 0 on an accelerator."""
    backend: Literal["local"] = "local"
    """How actor processes are started."""
    threads: int | Literal["auto"] = "auto"
    """CPU threads of each process; part of what fixes a run's bits. auto = the usable cores."""
    timeout_s: float = 600.0
    """Longest wait for one unit before the run ends with an error."""

    def __post_init__(self) -> None:
        check(self.actors == "auto" or self.actors >= 0, "cluster.actors", "auto or >= 0", self.actors)
        check(self.threads == "auto" or self.threads >= 1, "cluster.threads", "auto or >= 1", self.threads)
        check(self.timeout_s > 0, "cluster.timeout_s", "> 0", self.timeout_s)


@dataclass(frozen=True, kw_only=True)
class Hosts:
    """The learner's processes, one or more a host. No field changes the numbers, and none is kept for a resume."""

    processes: int | Literal["auto"] = 1
    """Processes that train as one, started with the same command; auto = ask Slurm, the TPU pod or Open MPI."""
    process_id: int | Literal["auto"] = "auto"
    """Which of them this one is, 0 ... processes - 1; 0 leads."""
    coordinator: str = "auto"
    """HOST:PORT of process 0, where they meet; auto = ask Slurm, the TPU pod or Open MPI."""
    start_s: float = 120.0
    """Longest wait for all processes to meet."""
    silent_s: float = 60.0
    """A process that has not been heard from for so long is dead, and ends all."""
    timeout_s: float = 1800.0
    """Longest that one thing done together may take (a step with its compilation, a save); more ends all."""

    def __post_init__(self) -> None:
        check(self.processes == "auto" or self.processes >= 1, "hosts.processes", "auto or >= 1", self.processes)
        if isinstance(self.process_id, int) and isinstance(self.processes, int):
            allowed = f"in 0..{self.processes - 1} (hosts.processes - 1)"
            check(0 <= self.process_id < self.processes, "hosts.process_id", allowed, self.process_id)
        host, _, port = self.coordinator.rpartition(":")
        valid = self.coordinator == "auto" or (host and port.isdecimal() and 0 < int(port) < 2**16)
        check(bool(valid), "hosts.coordinator", "auto or HOST:PORT", self.coordinator)
        for name in ("start_s", "silent_s", "timeout_s"):
            check(getattr(self, name) > 0, f"hosts.{name}", "> 0", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """The learner's mesh over the devices of all its processes. Changes memory, speed, and numbers by rounding only."""

    data: int = 1
    """Devices over which a batch is split, parameters whole."""
    fsdp: int = 1
    """Devices over which batch and parameters are split."""
    tensor: int = 1
    """Devices over which each layer's parameters are split."""

    def __post_init__(self) -> None:
        for name in ("data", "fsdp", "tensor"):
            check(getattr(self, name) >= 1, f"mesh.{name}", ">= 1", getattr(self, name))

    @property
    def devices(self) -> int:
        """Devices that the mesh needs."""
        return self.data * self.fsdp * self.tensor


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """How generations are measured, on `dev` (read by decisions) and `test` (reported only)."""

    tasks: int = 1024
    """Tasks of `test` a difficulty at the first and last generation."""
    tasks_between: int = 128
    """The same at the generations between, and the tasks of `dev` at every one."""
    every: int = 1
    """Evaluate every so many generations; the first and last always."""
    tasks_per_unit: int = 256
    """Tasks a unit."""
    temperature: float = 1.0
    """Sampling temperature of evaluation."""
    games: int = 128
    """Of a game: games against each scripted player and each kept past generation, half of them in each seat."""

    average_every: int = 1
    """Of a small game: every so many learner steps the policy is counted into the average policy."""

    def __post_init__(self) -> None:
        for name in ("tasks", "tasks_between", "every", "tasks_per_unit", "average_every"):
            check(getattr(self, name) >= 1, f"evaluate.{name}", ">= 1", getattr(self, name))
        check(self.games >= 0 and self.games % 2 == 0, "evaluate.games", "even, or 0", self.games)
        check(self.temperature > 0, "evaluate.temperature", "> 0", self.temperature)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """How the next task mix is set: weights over (environment, mode, difficulty)."""

    follow: Follow = "dev"
    """fixed = uniform; dev = by the dev scores of the last evaluation; train = by solve rates met in training."""
    floor: float = 0.05
    """Least weight of any difficulty, relative to the mean weight; the rest follows 4 p (1 - p)."""
    ema_decay: float = 0.9
    """Of follow = train: how slowly the estimate of p moves, a step."""

    def __post_init__(self) -> None:
        check(0 < self.floor <= 1, "objective.floor", "in (0, 1]", self.floor)
        check(0 <= self.ema_decay < 1, "objective.ema_decay", "in [0, 1)", self.ema_decay)


@dataclass(frozen=True, kw_only=True)
class Retire:
    """When a task is retired: it rests, and replay passes it over. Each bound is one end of a 95 % interval."""

    versions: int = 8
    """Newest solver versions whose record of a task is kept apart; a task is judged by them together."""
    mastered: float = 0.9
    """Retired where the lower end of its solve rate reaches this (35 of 35 attempts for 0.9); 1 = never."""
    impossible: float = 0.1
    """Retired where the upper end of its solve rate is at most this (0 of 35 attempts for 0.1); 0 = never."""
    unstable: float = 0.1
    """Retired where the environment fails on so large a share of attempts, lower end (3 of 8 for 0.1); 1 = never."""
    rest: int = 100
    """Learner steps since it was last met for which a retired task is not replayed: solvers change. 0 = none."""

    def __post_init__(self) -> None:
        check(self.versions >= 1, "archive.retire.versions", ">= 1", self.versions)
        check(0 < self.mastered <= 1, "archive.retire.mastered", "in (0, 1]", self.mastered)
        check(0 <= self.impossible < self.mastered, "archive.retire.impossible", "in [0, mastered)", self.impossible)
        check(0 < self.unstable <= 1, "archive.retire.unstable", "in (0, 1]", self.unstable)
        check(self.rest >= 0, "archive.retire.rest", ">= 0", self.rest)


@dataclass(frozen=True, kw_only=True)
class Archive:
    """What is remembered of past tasks."""

    capacity: int = 20000
    """Tasks kept; beyond it the ones seen longest ago go."""
    retire: Retire = field(default_factory=Retire)
    """Which tasks replay passes over."""

    def __post_init__(self) -> None:
        check(self.capacity >= 1, "archive.capacity", ">= 1", self.capacity)


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a run leaves on disk."""

    keep: int = 3
    """Newest generations kept with their weights; the base (0) is always kept."""
    samples_per_step: int = 2
    """Groups whose transcript goes to samples.jsonl, a step."""

    def __post_init__(self) -> None:
        check(self.keep >= 1, "output.keep", ">= 1", self.keep)
        check(self.samples_per_step >= 0, "output.samples_per_step", ">= 0", self.samples_per_step)
