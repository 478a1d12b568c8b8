"""Drawing completions on the mesh of all processes: process 0 says each call to the others, and all of them make it.

Weights stay split as the learner holds them, caches and rows are split too, so that what does not fit on one host can
be sampled from. Environments are process 0's alone: they need not say the same twice. Every process ends a call with
the same tokens, so that all shrink, grow and stop alike.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import msgspec
import numpy as np

from selfplay.hosts import Hosts
from selfplay.models import Params
from selfplay.records import PolicyRef, SamplingSpec
from selfplay.sampler import Context, Sampler, Texts, Tries
from selfplay.trie import Trie
from selfplay.written import Completion


class Load(msgspec.Struct, frozen=True, tag=True):
    """Take up the weights that were published last, as this version."""

    ref: PolicyRef


class Asked(msgspec.Struct, frozen=True):
    """What `Sampler.start` and `Sampler.complete` are both asked."""

    ref: PolicyRef
    prompts: list[np.ndarray | None]
    keys: np.ndarray
    spec: SamplingSpec
    attempts: int


class Draw(Asked, frozen=True, tag=True):
    """`Sampler.start`."""

    number: int
    """Of the context that comes out."""
    allowed: list[Trie | None] | None = None


class Complete(Asked, frozen=True, tag=True):
    """`Sampler.complete`."""


class Continue(msgspec.Struct, frozen=True, tag=True):
    """`Sampler.extend`."""

    context: int
    appended: list[np.ndarray | None]
    keys: np.ndarray
    spec: SamplingSpec
    number: int
    """Of the context that comes out."""
    allowed: list[Trie | None] | None = None


class Forget(msgspec.Struct, frozen=True, tag=True):
    """Let go what process 0 has let go."""

    contexts: list[int]
    versions: list[PolicyRef]


T = TypeVar("T")

Call = Load | Draw | Continue | Complete | Forget


class Calls:
    """How process 0 calls on the others; before each call they let go what it has let go.

    Not at once: a context goes when Python sees that nobody holds it, which may be in the middle of something, and
    versions go when a run breaks off, when nobody may be there to hear it.
    """

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self._made = 0
        self._contexts: deque[int] = deque()
        self._versions: deque[PolicyRef] = deque()

    @contextmanager
    def together(self, message: msgspec.Struct) -> Iterator[None]:
        """As `Hosts.together`."""
        if self._contexts or self._versions:
            with self.hosts.together(Forget(_taken(self._contexts), _taken(self._versions))):
                pass
        with self.hosts.together(message):
            yield

    def number(self) -> int:
        """A number for another context."""
        self._made += 1
        return self._made

    def keep(self, number: int, context: Context) -> JointContext:
        """A context that the others keep for as long as this one is held."""
        kept = JointContext(number, context)
        weakref.finalize(kept, self._contexts.append, number)
        return kept

    def forget(self, ref: PolicyRef) -> None:
        """A version that nobody needs any more."""
        self._versions.append(ref)


class JointContext:
    """A context at process 0, with the number by which the others know theirs."""

    def __init__(self, number: int, here: Context) -> None:
        self.number, self.here = number, here

    @property
    def ids(self) -> tuple[np.ndarray, ...]:
        return self.here.ids


class JointSampler:
    """A policy's sampler on the mesh of all processes, as process 0 has it; see the `Sampler` protocol.

    Args:
      here: this process's part in it: a sampler on the same mesh.
    """

    def __init__(self, here: Sampler, calls: Calls) -> None:
        self._here, self._calls = here, calls

    def load(self, ref: PolicyRef, params: Params) -> None:
        """Take up what `Joint.publish` has just given, at every process."""
        with self._calls.together(Load(ref)):
            self._here.load(ref, params)

    def drop(self, ref: PolicyRef) -> None:
        self._here.drop(ref)
        self._calls.forget(ref)

    def start(
        self,
        ref: PolicyRef,
        prompts: Texts,
        keys: np.ndarray,
        spec: SamplingSpec,
        *,
        attempts: int = 1,
        allowed: Tries = None,
    ) -> tuple[list[Completion], Context]:
        number = self._calls.number()
        with self._calls.together(Draw(ref, _tokens(prompts), keys, spec, attempts, number, _listed(allowed))):
            completions, context = self._here.start(ref, prompts, keys, spec, attempts=attempts, allowed=allowed)
        return completions, self._calls.keep(number, context)

    def extend(
        self, context: Context, appended: Texts, keys: np.ndarray, spec: SamplingSpec, *, allowed: Tries = None
    ) -> tuple[list[Completion], Context]:
        if not isinstance(context, JointContext):
            raise TypeError(f"JointSampler continues its own contexts, got {type(context).__name__}")
        number = self._calls.number()
        message = Continue(context.number, _tokens(appended), keys, spec, number, _listed(allowed))
        with self._calls.together(message):
            completions, further = self._here.extend(context.here, appended, keys, spec, allowed=allowed)
        return completions, self._calls.keep(number, further)

    def complete(
        self, ref: PolicyRef, prompts: Texts, keys: np.ndarray, spec: SamplingSpec, *, attempts: int = 1
    ) -> list[Completion]:
        with self._calls.together(Complete(ref, _tokens(prompts), keys, spec, attempts)):
            return self._here.complete(ref, prompts, keys, spec, attempts=attempts)


class Echo:
    """The samplers of another process than 0, by policy: they make each call that process 0 says."""

    def __init__(self, hosts: Hosts, samplers: Mapping[str, Sampler]) -> None:
        self._hosts, self._samplers = hosts, samplers
        self._contexts: dict[int, tuple[str, Context]] = {}
        self.published: dict[str, Params] = {}
        """What each policy has published last, until it is loaded."""

    def obey(self, message: Call) -> None:
        """Make one call."""
        with self._hosts.together(message):
            match message:
                case Load(ref):
                    self._samplers[ref.policy].load(ref, self.published.pop(ref.policy))
                case Draw(ref, prompts, keys, spec, attempts, number, allowed):
                    start = self._samplers[ref.policy].start
                    drawn = start(ref, prompts, keys, spec, attempts=attempts, allowed=allowed)
                    self._contexts[number] = ref.policy, drawn[1]
                case Continue(context, appended, keys, spec, number, allowed):
                    policy, before = self._contexts[context]
                    extended = self._samplers[policy].extend(before, appended, keys, spec, allowed=allowed)
                    self._contexts[number] = policy, extended[1]
                case Complete(ref, prompts, keys, spec, attempts):
                    self._samplers[ref.policy].complete(ref, prompts, keys, spec, attempts=attempts)
                case Forget(contexts, versions):
                    for number in contexts:
                        del self._contexts[number]
                    for ref in versions:
                        self._samplers[ref.policy].drop(ref)


def _tokens(rows: Texts) -> list[np.ndarray | None]:
    return [None if row is None else np.asarray(row, np.int32) for row in rows]


def _listed(allowed: Tries) -> list[Trie | None] | None:
    return None if allowed is None else list(allowed)


def _taken(queue: deque[T]) -> list[T]:
    """All that lies there, taken out."""
    return [queue.popleft() for _ in range(len(queue))]
