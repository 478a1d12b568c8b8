"""`python`: typed Python functions, run in the sandbox; deduce an output, abduce an input, or induce the function.

Programs that a model writes are executed by `envs.sandbox` alone. Those that `task` poses are chains of steps that our
own functions compute, so posing a task runs no program at all.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, get_args

from envs import options
from envs.base import (
    EnvError,
    EnvSpec,
    EnvUserError,
    Message,
    Origin,
    Rejection,
    SingleTurn,
    Split,
    Task,
    Verdict,
    split_of,
    stable_seed,
)
from envs.python_draw import Chain, Fault, chain, every_step_counts, values, write
from envs.python_forms import FORMS, read_args, read_literal, value_of
from envs.python_kinds import KINDS, Args, Ranges, fits, probes
from envs.python_rules import (
    Problem,
    Run,
    Study,
    common_share,
    copied,
    family_text,
    guessed,
    samples,
    study,
)
from envs.python_runs import Runs, args_text
from envs.python_source import IMPORTS, Source, read
from envs.sandbox import Result
from envs.sandbox.pool import Choice
from envs.sandbox.values import canonical

MODES = ("deduce", "abduce", "induce")
DIFFICULTIES = tuple(range(2, 11))
MAX_PROPOSED = 60
"""The most operations that options may allow."""
TRIES = 5000
GIVEN_TRIES = 4
"""Inputs tried of each program."""
REMEMBERED = 4096
"""Tasks that are kept once drawn."""
MAX_PROGRAM, MAX_ARGS, MAX_OUTPUT = 800, 200, 200
"""Characters of what a task may hold."""
MARKUP = 40
"""Characters that fences and tags add."""

OK, WRONG, UNPARSED, ILLEGAL, TIMEOUT = (
    Verdict(1.0, "ok"),
    Verdict(0.0, "wrong"),
    Verdict(0.0, "unparsed"),
    Verdict(0.0, "illegal"),
    Verdict(0.0, "timeout"),
)


class Python(SingleTurn):
    """Difficulty is the number of operations in the program: calls, operators, comparisons, branches, loops.

    The family is the function, by its values on fixed probe inputs of its annotated kinds: a held-out function is held
    out in every mode, whoever writes it. Content does not depend on the surface form.

    Args:
      form: "words" (English and fenced code, for chat models) or "brief" (for base models that are shown examples).
      inputs: kinds of parameters, as annotations: "list[int]", "int", "str", "list[str]", "dict[str, int]".
      values: smallest and largest number in an input that the environment draws.
      lengths: smallest and largest length of a list, text or dict that it draws.
      examples: how many examples induce shows, and how many it holds back.
      imports: modules that programs may import, proposed or answered. A matter of quality: the sandbox is the wall.
      propose_operations: smallest and largest number of operations in a proposal.
      guess_limit: a function of which one output is more common than this is refused as guessable.
      sandbox: tier of the sandbox: "auto" (the strongest that holds), "A", "B", "C", or "unsafe".
      workers: runs, and so verdicts, that may go on at a time.
      timeout_s: seconds that one run may take.
    """

    def __init__(
        self,
        *,
        form: str = "words",
        inputs: Sequence[str] = tuple(KINDS),
        values: Sequence[int] = (-9, 20),
        lengths: Sequence[int] = (2, 5),
        examples: Sequence[int] = (4, 6),
        imports: Sequence[str] = IMPORTS,
        propose_operations: Sequence[int] = (1, 20),
        guess_limit: float = 0.2,
        sandbox: Choice = "auto",
        workers: int = 2,
        timeout_s: float = 2.0,
    ) -> None:
        self.form = FORMS[options.one_of("python", "form", form, FORMS)]
        named = [inputs] if isinstance(inputs, str) else inputs
        chosen = {options.one_of("python", "inputs", kind, KINDS) for kind in named}
        self.inputs = tuple(kind for kind in KINDS if kind in chosen)
        if not self.inputs:
            raise EnvUserError(f"python: option inputs must name at least one of {'; '.join(KINDS)}")
        self.ranges = Ranges(
            options.bounds("python", "values", values, least=-1000, most=1000),
            options.bounds("python", "lengths", lengths, least=0, most=12),
        )
        self.shown, self.held_back = options.pair("python", "examples", examples, least=2, most=10)
        self.imports = _modules(imports)
        self.propose_operations = options.bounds(
            "python", "propose_operations", propose_operations, least=1, most=MAX_PROPOSED
        )
        self.guess_limit = options.fraction("python", "guess_limit", guess_limit)
        tier: Choice = options.one_of("python", "sandbox", sandbox, get_args(Choice))
        at_a_time = options.whole("python", "workers", workers, least=1, most=64)
        self._runs = Runs(tier, at_a_time, _seconds(timeout_s))
        self._drawn = lru_cache(maxsize=REMEMBERED)(self._draw)
        self._posed: dict[str, Chain] = {}
        self.spec = EnvSpec(
            name="python",
            version="1",
            modes=MODES,
            difficulties=DIFFICULTIES,
            max_new_tokens=MAX_PROGRAM + MARKUP,
            propose_tokens=MAX_PROGRAM + MAX_ARGS + 2 * MARKUP,
            p95_ms=1000.0,
            parallel=at_a_time,
            summary="Python functions in a sandbox: deduce an output, abduce an input, induce the function",
        )

    def task(
        self, split: Split, index: int, seed: int, *, mode: str | None = None, difficulty: int | None = None
    ) -> Task:
        """The task at a place: draws until one is fair and belongs to the split. Runs no program."""
        mode, difficulty = options.place(self.spec, split, index, mode, difficulty)
        return self._drawn(split, index, seed, mode, difficulty)

    def parse(self, task: Task, text: str) -> Any | None:
        """The canonical text of a value or of arguments, or the program."""
        said = self.form.find(task.mode, text)
        if task.mode == "deduce":
            return read_literal(said)
        if task.mode == "abduce":
            return read_args(said)
        return read(said, self.imports)

    def verify(self, task: Task, text: str) -> Verdict:
        answer = self.parse(task, text)
        if answer is None:
            return UNPARSED
        payload = task.payload
        if task.mode == "deduce":
            return OK if answer == payload["output"] else WRONG
        if task.mode == "induce":
            return self._induced(payload, answer)
        if not fits(payload["kinds"], answer):
            return WRONG
        result = self._runs.call(payload["program"], args_text(answer))
        if result.status == "timeout":
            return TIMEOUT
        return OK if result.status == "ok" and result.text == payload["output"] else WRONG

    def gold(self, task: Task) -> str:
        return self.form.answer(_problem_of(task))

    def ask(self, mode: str, shown: Sequence[Task], seed: int) -> tuple[Message, ...]:
        return (Message("user", self.form.ask(mode, [self.offer(task) for task in shown], self)),)

    def offer(self, task: Task) -> str:
        return self.form.offer(task.mode, task.payload["program"], task.payload["input"])

    def shape(self, task: Task) -> str:
        """The operations by name, whatever their order, numbers, variables and mode."""
        known = read(task.payload["program"], self.imports)
        return "" if known is None else " ".join(known.words)

    def admit(self, mode: str, text: str, shown: Sequence[Task], seed: int) -> Task | Rejection:
        """Turn a proposal into a task: read it, run it, and derive all of the truth."""
        offered = self.form.read_offer(mode, text)
        known = None if offered is None else read(offered[0], self.imports)
        if offered is None or known is None or known.kinds is None:
            return Rejection("format", text[:80])
        given = offered[1]
        if outside := self._too_large(known, known.kinds, given):
            return Rejection("bounds", outside)
        if known.outside:
            return Rejection("safety", known.outside)
        ours = self._posed.get(known.text)
        computed = self._computed_study(known.text, ours, given) if ours else None
        found = computed or self._study(known.text, known.kinds, given, self._sandboxed(known.text))
        if isinstance(found, str):
            return Rejection("executes", found)
        problem = self._problem(mode, known.text, found)
        if problem is None:
            return Rejection("executes", f"fewer than {self.shown + self.held_back} random inputs give a value")
        if computed is None and not self._deterministic(problem, found):
            return Rejection("deterministic", "fresh workers disagree")
        if unfair := self._unfair(problem, found):
            return unfair
        if (split := split_of("python", found.family)) != "train":
            return Rejection("held_out", f"its function is in {split}")
        parents = tuple(task.key for task in shown)
        return self._task("train", seed, -1, problem, known, found.family, "proposed", parents)

    def _draw(self, split: Split, index: int, seed: int, mode: str, difficulty: int | None) -> Task:
        source = stable_seed("python", split, index, seed, mode, -1 if difficulty is None else difficulty)
        rng = random.Random(source)
        size = rng.choice(self.spec.difficulties) if difficulty is None else difficulty
        for _ in range(TRIES):
            drawn = chain(rng, self.inputs, size)
            family = drawn and _family(drawn)
            if drawn is None or not family or split_of("python", family) != split or not _sound(drawn):
                continue
            known = read(write(drawn), self.imports)
            if known is None or not _sound(drawn, samples(drawn.kinds, self.ranges, known.text)):
                continue
            for _ in range(GIVEN_TRIES):
                given = tuple(KINDS[kind].draw(rng, self.ranges) for kind in drawn.kinds)
                found = self._computed_study(known.text, drawn, None if mode == "induce" else given)
                problem = found and self._problem(mode, known.text, found)
                if problem and found and self._unfair(problem, found) is None:
                    self._remember(known.text, drawn)
                    return self._task(split, source, index, problem, known, found.family)
        raise EnvError(f"python: no fair {split} task to {mode} of difficulty {size} in {TRIES} draws")

    def _remember(self, program: str, drawn: Chain) -> None:
        """Keep how to compute a program of ours: examples for proposers are admitted again and again."""
        if len(self._posed) >= REMEMBERED:
            self._posed.clear()
        self._posed[program] = drawn

    def _sandboxed(self, program: str) -> Run:
        return lambda inputs: self._runs.column(program, list(map(args_text, inputs)))

    def _computed_study(self, program: str, drawn: Chain, given: Args | None) -> Study | None:
        """What a program of ours does, as the sandbox would tell it; None where a value exceeds our bounds."""
        try:
            found = self._study(program, drawn.kinds, given, _computed(drawn))
        except Fault:
            return None
        return None if isinstance(found, str) else found

    def _study(self, program: str, kinds: tuple[str, ...], given: Args | None, run: Run) -> Study | str:
        return study(kinds, program, given, self.ranges, run, value_of)

    def _problem(self, mode: str, program: str, found: Study) -> Problem | None:
        """The problem about a function; None where it gives too few examples."""
        args = args_text(found.given)
        if mode != "induce":
            return Problem(mode, program, args, found.output, (), ())
        examples = found.examples[: self.shown + self.held_back]
        if len(examples) < self.shown + self.held_back:
            return None
        return Problem(mode, program, *examples[0], examples[: self.shown], examples[self.shown :])

    def _too_large(self, known: Source, kinds: tuple[str, ...], given: Args | None) -> str:
        """Which bound a proposal breaks; empty if none."""
        few, many = self.propose_operations
        if not few <= known.operations <= many:
            return f"{known.operations} operations, allowed {few} to {many}"
        if len(known.text) > MAX_PROGRAM:
            return f"a program of {len(known.text)} characters, allowed {MAX_PROGRAM}"
        for kind in kinds:
            if kind not in self.inputs:
                return f"a parameter {kind} is not in use"
        if given is None:
            return ""
        if not fits(kinds, given):
            return f"the input is no ({', '.join(kinds)})"
        length = len(args_text(given))
        return f"an input of {length} characters, allowed {MAX_ARGS}" if length > MAX_ARGS else ""

    def _deterministic(self, problem: Problem, found: Study) -> bool:
        """Whether the function gives the same when called alone as among others, and in every fresh worker."""
        alone = self._runs.call(problem.program, problem.args)
        same = alone.status == "ok" and alone.text == problem.output
        return same and self._runs.deterministic(problem.program, found.inputs)

    def _unfair(self, problem: Problem, found: Study) -> Rejection | None:
        """The first reason against a task that runs, other than its split."""
        longest = max(map(len, (problem.output, *(text for _, text in (*problem.shown, *problem.held_back)))))
        if longest > MAX_OUTPUT:
            return Rejection("bounds", f"an output of {longest} characters, allowed {MAX_OUTPUT}")
        if (share := common_share(found)) > self.guess_limit:
            return Rejection("guessable", f"one answer fits {share:.0%} of inputs")
        if guess := guessed(problem, found):
            return Rejection("guessable", guess)
        if place := copied(problem, found):
            return Rejection("answer_in_prompt", place)
        return None

    def _induced(self, payload: dict[str, Any], answer: Source) -> Verdict:
        """Whether a program gives all outputs; its shares of those shown and held back are parts of the verdict."""
        if answer.outside:
            return ILLEGAL
        examples = [*payload["shown"], *payload["held_back"]]
        found = self._runs.column(answer.text, [args for args, _ in examples])
        if isinstance(found, Result) and found.status == "timeout":
            return TIMEOUT
        got: Sequence[str | None] = [None] * len(examples) if isinstance(found, Result) else found
        right = [text == wanted for text, (_, wanted) in zip(got, examples, strict=True)]
        few = len(payload["shown"])
        parts = {"shown": sum(right[:few]) / few, "held_back": sum(right[few:]) / (len(right) - few)}
        return Verdict(float(all(right)), "ok" if all(right) else "wrong", parts)

    def _task(
        self,
        split: Split,
        seed: int,
        index: int,
        problem: Problem,
        known: Source,
        family: str,
        origin: Origin = "procedural",
        parents: tuple[str, ...] = (),
    ) -> Task:
        examples = str([*problem.shown, *problem.held_back])
        asked = {"deduce": problem.args, "abduce": problem.output, "induce": examples}[problem.mode]
        return Task(
            env="python",
            env_version=self.spec.version,
            split=split,
            seed=seed,
            index=index,
            mode=problem.mode,
            difficulty=known.operations,
            prompt=(Message("user", self.form.solve_prompt(problem, self.imports)),),
            payload={
                "program": problem.program,
                "kinds": list(known.kinds or ()),
                "input": problem.args,
                "output": problem.output,
                "shown": [list(example) for example in problem.shown],
                "held_back": [list(example) for example in problem.held_back],
            },
            content=f"{problem.program}\n{asked}",
            family=family,
            origin=origin,
            parents=parents,
        )


def _family(drawn: Chain) -> str:
    """The family of a program of ours; empty if a value exceeds a bound."""
    try:
        return family_text(drawn.kinds, [canonical(values(drawn, args)[-1]) for args in probes(drawn.kinds)])
    except Fault:
        return ""


def _sound(drawn: Chain, inputs: Sequence[Args] | None = None) -> bool:
    """Whether every step of a program of ours counts on some inputs (None = the probes), and no value is too large."""
    try:
        return every_step_counts(drawn, probes(drawn.kinds) if inputs is None else inputs)
    except Fault:
        return False


def _computed(drawn: Chain) -> Run:
    """What a program of ours gives, by our own functions; raises Fault where a value exceeds a bound."""
    return lambda inputs: [canonical(values(drawn, args)[-1]) for args in inputs]


def _problem_of(task: Task) -> Problem:
    payload = task.payload
    shown, held_back = (tuple((one, other) for one, other in payload[name]) for name in ("shown", "held_back"))
    return Problem(task.mode, payload["program"], payload["input"], payload["output"], shown, held_back)


def _modules(imports: Any) -> tuple[str, ...]:
    named = [imports] if isinstance(imports, str) else list(imports)
    for module in named:
        if type(module) is not str or not module.isidentifier():
            raise EnvUserError(f"python: option imports must name modules, such as math, got {module!r}")
    return tuple(named)


def _seconds(timeout_s: Any) -> float:
    if type(timeout_s) not in (int, float) or not 0.01 <= timeout_s <= 60:
        raise EnvUserError(f"python: option timeout_s must be a number of seconds from 0.01 to 60, got {timeout_s!r}")
    return float(timeout_s)
