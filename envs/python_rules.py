"""What a function of `python` does on probes and random inputs, and which tasks about it are too easy to be posed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from envs.base import digest, stable_seed
from envs.python_kinds import KINDS, Args, Ranges, draw, probes
from envs.python_runs import Column, args_text
from envs.sandbox import Result
from envs.sandbox.values import canonical

SAMPLES = 40
"""Random inputs from which induce takes its examples, and on which the best constant answer is scored."""
COPY = 8
"""Characters of an answer that may not stand in its prompt as they are; shorter ones do by chance."""

Run = Callable[[Sequence[Args]], Column | Result]
"""What a function gives for each of some inputs."""
Example = tuple[str, str]
"""Arguments and output, as canonical texts."""


class Problem(NamedTuple):
    """What a task is about; all values are canonical texts."""

    mode: str
    program: str
    args: str
    """The input of deduce and abduce; in abduce one of those that are right."""
    output: str
    shown: tuple[Example, ...]
    """The examples that induce shows."""
    held_back: tuple[Example, ...]
    """Those that its answer must fit as well."""


class Study(NamedTuple):
    """What a function was seen to do."""

    given: Args
    output: str
    family: str
    """Canonical text of the function, by its values on the probes."""
    empty: str | None
    """What it gives for nothing: an empty list, 0."""
    again: str | None
    """What it gives for its own output, if that can be its input."""
    examples: tuple[Example, ...]
    """Random inputs for which it gives a value, with that."""
    inputs: tuple[str, ...]
    """All on which it was run, as texts."""


def family_text(kinds: Sequence[str], outputs: Column) -> str:
    """Canonical text of a function: two programs that compute the same have the same values on the probes.

    Functions that differ only elsewhere share a family: families are at most too coarse, never too fine.
    """
    return f"({', '.join(kinds)}) {digest(*('raises' if text is None else f'= {text}' for text in outputs))}"


def samples(kinds: tuple[str, ...], ranges: Ranges, program: str) -> list[Args]:
    """The random inputs of a program, the same wherever it comes from."""
    return draw(kinds, ranges, SAMPLES, stable_seed("python samples", program))


def study(
    kinds: tuple[str, ...], program: str, given: Args | None, ranges: Ranges, run: Run, read: Callable[[str], Any]
) -> Study | str:
    """Run a function on all that is to be known of it; why that cannot be, as a text.

    Args:
      given: the task's input; None = the first random one for which it gives a value (induce has no input of its own).
      read: the value of a canonical text.
    """
    fixed, drawn = probes(kinds), samples(kinds, ranges, program)
    inputs = (*fixed, *drawn, *((given,) if given else ()))
    outputs = run(inputs)
    if isinstance(outputs, Result):
        return f"{outputs.status}: {outputs.text}"
    tried = list(zip(drawn, outputs[len(fixed) :], strict=False))
    works = [(args, text) for args, text in tried if text is not None]
    if 2 * len(works) <= len(tried):
        return f"it raises for {len(tried) - len(works)} of {len(tried)} random inputs"
    output = outputs[-1] if given else works[0][1]
    if output is None:
        return "it raises for its input"
    again = None
    if len(kinds) == 1 and KINDS[kinds[0]].fits(value := read(output)):
        second = run([(value,)])
        again = None if isinstance(second, Result) else second[0]
    return Study(
        given or works[0][0],
        output,
        family_text(kinds, outputs[: len(fixed)]),
        outputs[0],
        again,
        tuple((args_text(args), text) for args, text in works),
        tuple(map(args_text, inputs)),
    )


def common_share(found: Study) -> float:
    """Share of random inputs on which the most common output is right: what the best constant answer scores."""
    return max(Counter(text for _, text in found.examples).values()) / len(found.examples)


def guessed(problem: Problem, found: Study) -> str:
    """What would solve the task without looking; empty if nothing so simple does.

    Nothing, or 0, is an input that abduce looks for; or all examples that induce shows have one output, or their own
    input as output.
    """
    if problem.mode == "abduce":
        return "nothing fits" if found.empty == problem.output else ""
    if problem.mode == "induce":
        if len({text for _, text in problem.shown}) == 1:
            return "one output fits all examples"
        return "the input fits all examples" if all(args == text for args, text in problem.shown) else ""
    return ""


def copied(problem: Problem, found: Study) -> str:
    """Where the answer stands in the prompt; empty if nowhere.

    In deduce the output is one of the arguments, or the one value that all places of one hold; in abduce the output
    itself fits. In both, a longer answer stands in the program word for word.
    """
    if problem.mode == "deduce":
        if any(canonical(arg) == problem.output or _uniform(arg) == problem.output for arg in found.given):
            return "the output is an argument"
        if len(problem.output) >= COPY and problem.output in f"{problem.program}\n{problem.args}":
            return "the output stands in the prompt"
    if problem.mode == "abduce":
        if found.again == problem.output:
            return "the output is an input that fits"
        if len(problem.args) >= COPY and problem.args in problem.program:
            return "the input stands in the program"
    return ""


def _uniform(arg: Any) -> str:
    """The one value that all places of a list hold; empty otherwise."""
    parts = {canonical(part) for part in arg} if type(arg) is list else set()
    return parts.pop() if len(parts) == 1 else ""
