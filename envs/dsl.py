"""`dsl`: programs over integers and short lists; deduce an output, abduce an input, or induce the program.

`take(reverse(x), 3) where x = [3, 1, 4, 2]` gives [2, 4, 1]. Programs are trees of 35 typed operators, evaluated by our
own evaluator within limits of steps, sizes and values.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

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
from envs.dsl_draw import Draw, sizes
from envs.dsl_eval import FAULT, LIMIT, MAX_LIST, STEPS, Evaluation, run, run_all, within_limits
from envs.dsl_forms import FORMS
from envs.dsl_lang import INPUTS, LITERAL, OPERATOR_SETS, OPERATORS, Problem, Program, Value, nodes, program, value_kind
from envs.dsl_payload import payload_of, plain, problem_of, program_of, value_of
from envs.dsl_rules import (
    common_share,
    copied,
    counting,
    draw_inputs,
    family_text,
    guessed,
    idle,
    idle_on,
    on_probes,
    says_nothing,
)
from envs.dsl_said import said_task
from envs.dsl_syntax import infix_value, write_infix

MODES = ("deduce", "abduce", "induce")
DIFFICULTIES = tuple(range(1, 9))
MAX_PROPOSED = 24
"""The most operators that options may allow."""
TRIES = 2000
VARIATIONS = 40
"""Programs tried beside each that is drawn, with one or two of its operators or constants exchanged."""
GIVEN_TRIES = 4
"""Inputs tried of each program."""
GUESS_INPUTS = 100
"""Random inputs on which the best constant answer is scored."""
LITERALS = (0, 9)
"""Constants of the programs that `task` poses."""

OK, WRONG, UNPARSED = Verdict(1.0, "ok"), Verdict(0.0, "wrong"), Verdict(0.0, "unparsed")


class Dsl(SingleTurn):
    """Difficulty is the number of operators, those of small functions included.

    Each operator is one step of work: it stratifies deduce by the length of the worked answer, and abduce and induce
    by the size of what has to be searched. (Depth does not tell a chain from a bush, and steps depend on the input.)
    Padding does not raise it: every operator must count, or only those that do are counted (`padding`). Content and
    family do not depend on the surface form; the family is the function that the program computes, so a held-out
    function is held out in every mode.

    Args:
      form: "compact" (postfix letters, numbers modulo 10), "words" (expressions and English, for chat models), or
        "brief" (expressions without explanations, for base models that are shown examples).
      modulus: numbers are 0 .. modulus - 1 and wrap around; 0 = whole numbers. 10 in compact, 0 (default) or 10 else.
      operators: words of the operators in use, such as ["sort", "take"], or "core": list to list; None = all.
      inputs: kinds of inputs of the tasks that `task` poses and of proposals: "list" (x), "int" (n).
      values: smallest and largest number in an input; None = 0 to 9.
      lengths: smallest and largest length of a list that is an input.
      examples: how many examples induce shows, and how many it holds back.
      propose_operators: smallest and largest number of operators in a proposal.
      guess_limit: a program of which one output is more common than this is refused as guessable.
      max_answer: characters of the longest worked answer, with its end; None = as the form has it.
      padding: "refused" or "allowed": what becomes of a proposal with operators that do nothing. Where it is allowed
        they are a part of the task, and do not count towards its difficulty.
    """

    def __init__(
        self,
        *,
        form: str = "compact",
        modulus: int | None = None,
        operators: Sequence[str] | None = None,
        inputs: Sequence[str] = ("list", "int"),
        values: Sequence[int] = (0, 9),
        lengths: Sequence[int] = (3, 5),
        examples: Sequence[int] = (4, 6),
        propose_operators: Sequence[int] = (1, 12),
        guess_limit: float = 0.2,
        max_answer: int | None = None,
        padding: str = "refused",
    ) -> None:
        self.form = FORMS[options.one_of("dsl", "form", form, FORMS)]
        moduli = self.form.moduli
        self.modulus = options.one_of("dsl", "modulus", moduli[0] if modulus is None else modulus, moduli)
        low, high = (0, self.modulus - 1) if self.modulus else (-LIMIT, LIMIT)
        self.values = options.bounds("dsl", "values", values, least=low, most=high)
        self.lengths = options.bounds("dsl", "lengths", lengths, least=1, most=MAX_LIST)
        named = [operators] if isinstance(operators, str) else OPERATORS if operators is None else operators
        words = [word for name in named for word in OPERATOR_SETS.get(str(name), (name,))]
        self.operators = _chosen("operators", words, OPERATORS)
        self.inputs = _chosen("inputs", inputs, ("list", "int"))
        self.shown, self.held_back = options.pair("dsl", "examples", examples, least=2, most=20)
        self.propose_operators = options.bounds(
            "dsl", "propose_operators", propose_operators, least=1, most=MAX_PROPOSED
        )
        self.guess_limit = options.fraction("dsl", "guess_limit", guess_limit)
        answer = self.form.max_answer if max_answer is None else max_answer
        self.max_answer = options.whole("dsl", "max_answer", answer, least=16, most=10_000)
        self.padding = options.one_of("dsl", "padding", padding, ("refused", "allowed")) == "allowed"
        variables = [variable for variable, kind in INPUTS.items() if kind in self.inputs]
        self._draws = [draw for v in variables if sizes(draw := Draw(v, self.operators, LITERALS), DIFFICULTIES[-1])]
        counts = {n for draw in self._draws for n in sizes(draw, DIFFICULTIES[-1])}
        if not counts:
            raise EnvUserError("dsl: option operators leaves no program over its inputs: name more of them")
        self.spec = EnvSpec(
            name="dsl",
            version="3",
            modes=MODES,
            difficulties=tuple(sorted(counts)),
            max_new_tokens=self.max_answer,
            propose_tokens=self.form.propose_tokens(max(self.propose_operators[1], *counts), self.lengths[1]),
            summary="programs over integers and short lists: deduce an output, abduce an input, induce the program",
        )
        self._guess_inputs = {
            kind: draw_inputs(kind, self.values, self.lengths, GUESS_INPUTS, stable_seed("dsl guess", kind))
            for kind in INPUTS.values()
        }

    def task(
        self, split: Split, index: int, seed: int, *, mode: str | None = None, difficulty: int | None = None
    ) -> Task:
        """The task at a place: draws until one is fair and belongs to the split."""
        mode, difficulty = options.place(self.spec, split, index, mode, difficulty)
        source = stable_seed("dsl", split, index, seed, mode, -1 if difficulty is None else difficulty)
        rng = random.Random(source)
        count = rng.choice(self.spec.difficulties) if difficulty is None else difficulty
        draws = [draw for draw in self._draws if count in sizes(draw, DIFFICULTIES[-1])]
        for _ in range(TRIES):
            draw = rng.choice(draws)
            found = on_probes(draw.variable, self.modulus)
            for known in self._varied(rng, draw, count, found):
                family = family_text(known, found)
                if split_of("dsl", family) != split or not self._proper(known, found):
                    continue
                for given in draw_inputs(known.takes, self.values, self.lengths, GIVEN_TRIES, rng.getrandbits(64)):
                    problem = self._problem(mode, known, given)
                    if problem and self._unfair(known, problem, None) is None:
                        return self._task(split, source, index, problem, family)
        raise EnvError(f"dsl: no fair {split} task to {mode} of difficulty {count} in {TRIES} draws")

    def parse(self, task: Task, text: str) -> Any | None:
        return self.form.read_program(text) if task.mode == "induce" else self.form.read_value(text)

    def verify(self, task: Task, text: str) -> Verdict:
        answer = self.parse(task, text)
        if answer is None:
            return UNPARSED
        payload = task.payload
        if "said" in payload:  # of an unchecked proposal that cannot be run: there is no truth
            return WRONG
        if task.mode == "deduce":
            return OK if answer == value_of(payload["output"]) else WRONG
        if task.mode == "abduce":
            known, modulus = program_of(payload["program"]), payload["modulus"]
            fits = value_kind(answer) == known.takes and within_limits(answer, modulus)
            return OK if fits and run(known, answer, modulus) == value_of(payload["output"]) else WRONG
        return _induced(payload, answer)

    def gold(self, task: Task) -> str | None:
        return None if "said" in task.payload else self.form.worked(problem_of(task))

    def ask(self, mode: str, shown: Sequence[Task], seed: int) -> tuple[Message, ...]:
        return (Message("user", self.form.ask(mode, [self.offer(task) for task in shown], self)),)

    def offer(self, task: Task) -> str:
        if "said" in task.payload:
            return str(task.payload["said"])
        problem = problem_of(task)
        return self.form.offer(problem.program, problem.given)

    def shape(self, task: Task) -> str:
        """The letters of the operators, whatever their order, numbers and mode; ? of a program that cannot be run."""
        if "said" in task.payload:
            return "?"
        tree = program_of(task.payload["program"]).tree
        return "".join(sorted(OPERATORS[node.op].letter for node in nodes(tree) if node.op in OPERATORS))

    def admit(self, mode: str, text: str, shown: Sequence[Task], seed: int) -> Task | Rejection:
        """Turn a proposal into a task. Programs are safe and deterministic: those reasons never occur."""
        read = self.form.read_offer(text)
        if read is None:
            return Rejection("format", text[:80])
        proposed, given = read
        outside = self._outside(proposed, given)
        if outside:
            return Rejection("bounds", outside)
        problem = self._problem(mode, proposed, given)
        found = on_probes(proposed.variable, self.modulus)
        unfair = self._unfair(proposed, problem, found)
        if unfair is not None or problem is None:
            return unfair or Rejection("executes")
        family = family_text(proposed, found)
        if (split := split_of("dsl", family)) != "train":
            return Rejection("held_out", f"its function is in {split}")
        return self._proposed(seed, problem, found, family, tuple(task.key for task in shown))

    def unchecked(self, mode: str, text: str, shown: Sequence[Task], seed: int) -> Task | None:
        """The task of a proposal as it stands: with its truth where it can be run, else one that no answer solves."""
        parents = tuple(task.key for task in shown)
        read = self.form.read_offer(text)
        problem = None
        if read is not None and value_kind(read[1]) == read[0].takes:
            known, given = read
            found = on_probes(known.variable, self.modulus)
            lawful = known.size <= MAX_PROPOSED and within_limits(given, self.modulus)
            problem = self._problem(mode, known, given) if lawful else None
            if problem is not None and FAULT not in found.result(known.tree):
                family = family_text(known, found)
                held_out = split_of("dsl", family) != "train"
                return None if held_out else self._proposed(seed, problem, found, family, parents)
        return said_task(mode, text.strip()[: 2 * self.max_answer], self.spec.version, seed, parents)

    def _varied(self, rng: random.Random, draw: Draw, count: int, found: Evaluation) -> Iterator[Program]:
        """A random program in which every operator counts, and variations of it, most of which are such too.

        Variations share most parts, which are evaluated once: where few programs are of a split, that saves most work.
        """
        tree = draw.program(rng, count, found)
        base = program(tree) if tree else None
        if base is None or not self._proper(base, found):
            return
        yield base
        seen = {base.tree}
        for _ in range(VARIATIONS):
            tree = base.tree
            for _ in range(rng.randint(1, 2)):
                tree = draw.varied(rng, tree)
            if tree not in seen and not says_nothing(tree, found):
                yield base._replace(tree=tree)
            seen.add(tree)

    def _problem(self, mode: str, known: Program, given: Value) -> Problem | None:
        """The problem of a program and an input; None where a limit is exceeded.

        Induce takes the input as its first example. The others are drawn by program and input: a program that comes up
        again is asked for by other examples, and one that is proposed again with its input is the same task.
        """
        asked = [given]
        if mode == "induce":
            seed = stable_seed("dsl examples", write_infix(known.tree), self.modulus, infix_value(given))
            drawn = draw_inputs(known.takes, self.values, self.lengths, self.shown + self.held_back, seed)
            asked += [other for other in drawn if other != given][: self.shown + self.held_back - 1]
        outputs = run_all(known, asked, self.modulus)
        if FAULT in outputs:
            return None
        if mode != "induce":
            return Problem(mode, known, given, outputs[0], (), (), self.modulus)
        examples = tuple(zip(asked, outputs, strict=True))
        held_back = examples[self.shown :] or examples[-1:]
        return Problem(mode, known, given, outputs[0], examples[: self.shown], held_back, self.modulus)

    def _outside(self, known: Program, given: Value) -> str:
        """Which bound a proposal breaks; empty if none."""
        short, long = self.propose_operators
        if not short <= known.size <= long:
            return f"{known.size} operators, allowed {short} to {long}"
        if known.takes not in self.inputs:
            return f"the input {known.variable} is not in use"
        for node in nodes(known.tree):
            if node.op in OPERATORS and node.op not in self.operators:
                return f"operator {node.op} is not in use"
            if node.op == LITERAL and not within_limits(node.value, self.modulus):
                return f"constant {node.value}, allowed up to {self.modulus - 1 if self.modulus else LIMIT}"
        if value_kind(given) != known.takes:
            return f"the input is no {known.takes}"
        few, many = self.lengths
        numbers = given if isinstance(given, tuple) else (given,)
        if isinstance(given, tuple) and not few <= len(given) <= many:
            return f"{len(given)} numbers, allowed {few} to {many}"
        low, high = self.values
        return next((f"number {v}, allowed {low} to {high}" for v in numbers if not low <= v <= high), "")

    def _proper(self, known: Program, found: Evaluation) -> bool:
        """Whether nothing is against a program, whatever its input."""
        if FAULT in found.result(known.tree) or self._common(known) > self.guess_limit:
            return False
        return not idle(known, found)

    def _unfair(self, known: Program, problem: Problem | None, found: Evaluation | None) -> Rejection | None:
        """The first reason against a task, other than its split.

        Args:
          problem: of the program, None where a limit is exceeded.
          found: of the probes; None where the program is known to be proper.
        """
        if problem is None or (found and FAULT in found.result(known.tree)):
            return Rejection("executes", f"a limit is exceeded (numbers {LIMIT}, lists {MAX_LIST}, steps {STEPS})")
        lenient = self.padding and found is not None
        if found and not lenient and (word := idle(known, found)):
            return Rejection("bounds", f"{word} makes no difference")
        if problem.mode != "induce" and not lenient and (word := idle_on(known, problem.given, self.modulus)):
            return Rejection("bounds", f"{word} changes nothing here")
        if len(self.form.worked(problem)) >= self.max_answer:
            return Rejection("bounds", f"its answer is longer than {self.max_answer - 1} characters")
        if found and (share := self._common(known)) > self.guess_limit:
            return Rejection("guessable", f"one answer fits {share:.0%} of inputs")
        if guess := guessed(problem):
            return Rejection("guessable", guess)
        if copied(problem):
            return Rejection("answer_in_prompt", "the answer can be copied")
        return None

    def _common(self, known: Program) -> float:
        """Share of random inputs on which the most common output is right."""
        return common_share(run_all(known, self._guess_inputs[known.takes], self.modulus))

    def _proposed(self, seed: int, problem: Problem, found: Evaluation, family: str, parents: tuple[str, ...]) -> Task:
        """The task of a proposal; padding, where it is allowed, does not count towards its difficulty."""
        task = self._task("train", seed, -1, problem, family, "proposed", parents)
        return msgspec.structs.replace(task, difficulty=counting(problem.program, found)) if self.padding else task

    def _task(
        self,
        split: Split,
        seed: int,
        index: int,
        problem: Problem,
        family: str,
        origin: Origin = "procedural",
        parents: tuple[str, ...] = (),
    ) -> Task:
        mode, known, given, output = problem.mode, problem.program, problem.given, problem.output
        text = write_infix(known.tree)
        examples = [*problem.shown, *problem.held_back]
        asked = {"deduce": infix_value(given), "abduce": infix_value(output), "induce": str(plain(examples))}[mode]
        wraps = f" | mod {self.modulus}" if self.modulus else ""
        return Task(
            env="dsl",
            env_version=self.spec.version,
            split=split,
            seed=seed,
            index=index,
            mode=mode,
            difficulty=known.size,
            prompt=(Message("user", self.form.solve_prompt(problem, self.operators)),),
            payload=payload_of(problem),
            content=f"{text} | {asked}{wraps}",
            family=family,
            origin=origin,
            parents=parents,
        )


def _induced(payload: dict[str, Any], answer: Program) -> Verdict:
    """Whether a program gives all outputs; its shares of those shown and held back are parts of the verdict."""
    right = []
    for name in ("shown", "held_back"):
        asked, outputs = zip(*((value_of(a), value_of(b)) for a, b in payload[name]), strict=True)
        fits = value_kind(asked[0]) == answer.takes and value_kind(outputs[0]) == answer.gives
        found = run_all(answer, asked, payload["modulus"]) if fits else ()
        right.append(sum(one == other for one, other in zip(found, outputs, strict=False)) / len(outputs))
    shown, held_back = right
    whole = shown == held_back == 1
    return Verdict(float(whole), "ok" if whole else "wrong", {"shown": shown, "held_back": held_back})


def _chosen(option: str, words: Any, valid: Iterable[str]) -> tuple[str, ...]:
    """The valid words that are named, each once, in the order of `valid`."""
    known = list(valid)
    named = [options.one_of("dsl", option, word, known) for word in ([words] if isinstance(words, str) else words)]
    if not named:
        raise EnvUserError(f"dsl: option {option} must name at least one of {', '.join(known)}")
    return tuple(word for word in known if word in named)
