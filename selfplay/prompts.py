"""What a policy is asked, to the token: a task or a call for proposals, after the examples that its template wants.

Examples are tasks of the train split with the environment's own answers. Which ones follows from the unit and the task
alone, so all attempts at a task read the same prompt, in every process.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import cast

import numpy as np

from envs.base import Env, EnvError, Message, Proposable, Split, Task, Verifiable, stable_seed
from selfplay.config import Template
from selfplay.errors import UserError
from selfplay.models.tokenizer import Tokenizer
from selfplay.records import Lesson, Role, Unit
from selfplay.streams import Stream, python_seed
from selfplay.templates import prompt_ids, with_examples

POOL = 256
"""Train tasks of a difficulty that examples are drawn from."""
TRIES = 20
"""Draws for each example: it may be the very task that is asked, or one that nobody could propose."""

Example = tuple[tuple[Message, ...], str]
"""What was asked, and the answer."""

Place = tuple[int, int]
"""Index and difficulty of a task of the train split."""


@dataclass(frozen=True)
class Recall:
    """A memory to show some of."""

    lessons: Sequence[Lesson]
    """The oldest first."""
    count: int
    """Most that are shown."""
    room: int
    """Most tokens of the whole prompt."""

    def alike(self, env: Env, task: Task) -> list[Example]:
        """Lessons of the task's environment and mode, those of its shape nearest to the question, then the youngest."""
        shape = env.shape(task) if isinstance(env, Proposable) else ""
        fit = [x for x in self.lessons if (x.env, x.mode) == (task.env, task.mode) and x.family != task.family]
        ranked = sorted(range(len(fit)), key=lambda i: (fit[i].shape == shape, i))
        return [(fit[i].question, fit[i].answer) for i in ranked[-self.count :]]


@dataclass(frozen=True)
class Prompter:
    """Writes the prompts of one role in one environment."""

    env: Env
    template: Template
    tokenizer: Tokenizer
    seed: int
    """Where examples come from."""

    def solve(self, task: Task, hint: Sequence[Message] = (), memory: Recall | None = None) -> np.ndarray:
        """Ids [n] int32 of the prompt that a solver of a task reads.

        Args:
          hint: messages that stand before the question.
          memory: shown as examples, as many as there is room for.
        """
        difficulties = self.template.example_difficulties or (_nearest(task.difficulty, self.env.spec.difficulties),)
        rng = random.Random(stable_seed("solve", self._source, task.key))
        alike = self._alike(task, difficulties) if self.template.example_shape == "same" else []
        examples = self._examples("solve", rng, task.mode, difficulties, avoid=task.family, alike=alike)
        asked = (*hint, *first_messages(self.env, task))
        lessons = memory.alike(self.env, task) if memory else []
        ids = self._ids(asked, [*lessons, *examples])
        while memory and lessons and len(ids) > memory.room:
            lessons = lessons[1:]
            ids = self._ids(asked, [*lessons, *examples])
        return ids

    def propose(self, mode: str, shown: Sequence[Task], seed: int) -> np.ndarray:
        """Ids [n] int32 of the prompt that asks for a proposal; `seed` is that of the ask."""
        if not isinstance(self.env, Proposable):
            raise EnvError(f"environment {self.env.spec.name} takes no proposals: it has no ask and admit")
        difficulties = self.template.example_difficulties or self.env.spec.difficulties
        rng = random.Random(stable_seed("propose", self._source, seed))
        examples = self._examples("propose", rng, mode, difficulties)
        return self._ids(self.env.ask(mode, shown, seed), examples)

    @property
    def _source(self) -> int:
        return _example_seed(self.seed)

    def _ids(self, messages: Sequence[Message], examples: Sequence[Example]) -> np.ndarray:
        return prompt_ids(self.template, self.tokenizer, with_examples(messages, examples))

    def _alike(self, task: Task, difficulties: Sequence[int]) -> list[Place]:
        """Where tasks of this task's shape are posed."""
        if not isinstance(self.env, Proposable):
            raise EnvError(f"environment {self.env.spec.name} tells no shapes of tasks apart")
        shape = self.env.shape(task)
        shapes = [(d, shapes_posed(self.env, self._source, task.mode, d)) for d in difficulties]
        return [(index, d) for d, found in shapes for index in found.get(shape, ())]

    def _examples(
        self,
        role: Role,
        rng: random.Random,
        mode: str,
        difficulties: Sequence[int],
        avoid: str = "",
        alike: Sequence[Place] = (),
    ) -> list[Example]:
        """Examples of different families, none of the family `avoid`: it would give the answer away.

        Those of the places `alike` come last, next to the question.
        """
        found: dict[str, Example] = {}
        tries = self.template.examples * TRIES
        anywhere = ((rng.randrange(POOL), rng.choice(difficulties)) for _ in range(tries))
        for index, difficulty in chain(rng.sample(alike, len(alike)), anywhere):
            if len(found) == self.template.examples:
                break
            task = posed(self.env, "train", index, self._source, mode, difficulty)
            example = None if task.family == avoid or task.family in found else KINDS[role](self.env, task)
            if example is not None:
                found[task.family] = example
        if len(found) < self.template.examples:
            raise UserError(
                f"environment {self.env.spec.name}: {len(found)} different examples of mode {mode} and difficulty "
                f"{', '.join(map(str, difficulties))} were found, the template's examples asks for "
                f"{self.template.examples}"
            )
        return list(found.values())[:: -1 if alike else 1]


def prompter(unit: Unit, role: Role, env: Env, tokenizer: Tokenizer) -> Prompter:
    """What writes the prompts of a role in a unit."""
    return Prompter(env, unit.templates.get(role, Template()), tokenizer, unit.example_seed)


def first_messages(env: Env, task: Task) -> tuple[Message, ...]:
    """What the first turn of a task's episode shows."""
    episode = env.open(task)
    try:
        turn = episode.turn()
    finally:
        episode.close()
    if turn is None:
        raise EnvError(f"environment {task.env}: the episode of task {task.key} is over before its first turn")
    return turn.new_messages


def check_examples(env: Env, templates: Mapping[Role, Template], name: str) -> None:
    """Refuse examples of an environment that cannot give them, or whose answers would be cut at a stop text.

    Raises:
      UserError: with the environment, and what it lacks.
    """
    for role, template in templates.items():
        if not template.examples:
            continue
        lacking = "gold answers" if role == "solve" else "proposals"
        if not isinstance(env, Verifiable if role == "solve" else Proposable):
            raise UserError(f"environment {name} has no {lacking} to show as examples: set the template's examples = 0")
        if template.example_shape == "same" and not isinstance(env, Proposable):
            raise UserError(
                f"environment {name} tells no shapes of tasks apart: set the template's example_shape = any"
            )
        unknown = [d for d in template.example_difficulties if d not in env.spec.difficulties]
        if unknown:
            raise UserError(
                f"the template's example_difficulties: environment {name} has no {unknown[0]}; "
                f"valid: {', '.join(map(str, env.spec.difficulties))}"
            )
        for difficulty in template.example_difficulties or env.spec.difficulties:
            task = posed(env, "train", 0, 0, env.spec.modes[0], difficulty)
            example = KINDS[role](env, task)
            answer = example[1].strip() if example else ""
            cut = next((s for s in template.stops if s in answer), None)
            if cut is not None:
                raise UserError(
                    f"environment {name}: its {lacking} hold the stop text {cut!r}, such as {answer!r}: "
                    "set the template's assistant and stop to others"
                )


def _solved(env: Env, task: Task) -> Example | None:
    """A task as a solver meets it, with its gold answer."""
    gold = env.gold(task) if isinstance(env, Verifiable) else None
    return None if gold is None else (first_messages(env, task), gold)


def _proposed(env: Env, task: Task) -> Example | None:
    """A task as a proposer would have written it, if the environment would have taken it."""
    if not isinstance(env, Proposable):
        return None
    offer = env.offer(task)
    return (env.ask(task.mode, (), task.seed), offer) if isinstance(env.admit(task.mode, offer, (), 0), Task) else None


KINDS: dict[Role, Callable[[Env, Task], Example | None]] = {"solve": _solved, "propose": _proposed}


def _nearest(difficulty: int, has: Sequence[int]) -> int:
    """The difficulty that an environment poses nearest to a proposed task's."""
    return min(has, key=lambda d: abs(d - difficulty))


@lru_cache(maxsize=64)
def _example_seed(seed: int) -> int:
    return python_seed(seed, Stream.EXAMPLES)


def pose(env: Env, split: Split, index: int, seed: int, mode: str, difficulty: int) -> Task:
    """`env.task`, every place of it named."""
    return env.task(split, index, seed, mode=mode, difficulty=difficulty)


posed = cast("Callable[[Env, Split, int, int, str, int], Task]", lru_cache(maxsize=1 << 16)(pose))
"""The same, kept: held-out tasks are asked every generation, and examples come from a small pool."""


def find_shapes(env: Env, seed: int, mode: str, difficulty: int) -> Mapping[str, Sequence[int]]:
    """Which of the train tasks that examples are drawn from have which shape, by index."""
    found: dict[str, list[int]] = {}
    if isinstance(env, Proposable):
        for index in range(POOL):
            found.setdefault(env.shape(posed(env, "train", index, seed, mode, difficulty)), []).append(index)
    return found


shapes_posed = cast("Callable[[Env, int, str, int], Mapping[str, Sequence[int]]]", lru_cache(maxsize=256)(find_shapes))
"""The same, kept."""
