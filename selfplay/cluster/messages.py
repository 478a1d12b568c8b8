"""The closed set of messages between the learner and an actor process; one message a frame, msgpack."""

from __future__ import annotations

from typing import Any

import msgspec

from selfplay.cluster.weights import Sheet
from selfplay.records import Group, PolicyRef, Unit


class Start(msgspec.Struct, frozen=True, tag=True):
    """First message to an actor: what to build its worker from."""

    spec: dict[str, Any]


class Load(msgspec.Struct, frozen=True, tag=True):
    """Take a version."""

    ref: PolicyRef
    sheet: Sheet


class Drop(msgspec.Struct, frozen=True, tag=True):
    """Forget a version."""

    ref: PolicyRef


class Run(msgspec.Struct, frozen=True, tag=True):
    """Run a unit; `job` numbers it within the cluster."""

    job: int
    unit: Unit


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Leave in good order."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The worker is built."""

    build_s: float


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """A version was read, its digest is right, and the worker has it."""

    ref: PolicyRef
    load_s: float


class Done(msgspec.Struct, frozen=True, tag=True):
    """The groups of a job."""

    job: int
    groups: list[Group]
    timings: dict[str, float]


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The worker raised; the actor ends after this."""

    error: str
    """Type and text of the exception, one line."""
    traceback: str


ToActor = Start | Load | Drop | Run | Stop
ToLearner = Ready | Loaded | Done | Failed
