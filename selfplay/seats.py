"""Who plays what: the version of a policy in every role, and the versions that must stay loadable for it.

A role that is not trained plays as the base, version 0; one with `plays = generation` as the version that the
generation began with; all others as the newest weights.
"""

from __future__ import annotations

from collections.abc import Collection

from selfplay.config import Run
from selfplay.records import PolicyRef, Role


def seats(run: Run, *, newest: int, began: int, memory: str) -> dict[Role, PolicyRef]:
    """What plays every role of a step.

    Args:
      newest: version of the newest weights.
      began: version that the generation began with.
      memory: digest of what a solver remembers.
    """
    versions = {"newest": newest, "generation": began}
    return {role: seat(run, role, versions[run.roles[role].plays], memory=memory) for role in run.used_roles}


def seat(run: Run, role: Role, version: int, *, memory: str = "") -> PolicyRef:
    """A version of the policy that plays a role, the base where it is not trained; a solver's with its memory."""
    chosen = run.roles[role]
    return PolicyRef(chosen.policy, version if chosen.trainable else 0, memory if role == "solve" else "")


def kept_versions(run: Run, policy: str, *, newest: int | None, began: int, past: Collection[int]) -> set[int]:
    """The versions of a policy that some role may still play as.

    Args:
      newest: the version to come from now on; None = it is still to be made.
      past: versions of past selves that are kept as opponents.
    """
    keep = set() if newest is None else {newest}
    if any(role.plays == "generation" for role in run.roles.values()):
        keep.add(began)
    if any(role.policy == policy and not role.trainable for role in run.roles.values()):
        keep.add(0)
    if run.plays and policy == run.roles["play"].policy:
        keep |= set(past)
    return keep


def is_new_opponent(run: Run, generation: int) -> bool:
    """Whether the end of a generation gives games an opponent that they lack: the base, and whatever was learnt."""
    return run.plays and (generation == 0 or run.roles["play"].trainable)
