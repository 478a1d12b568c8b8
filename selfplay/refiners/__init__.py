"""Refinement beyond pay and credit, one file a kind; `refine.kind` names it."""

from __future__ import annotations

from collections.abc import Mapping

from envs.base import Env, Verifiable
from selfplay.config import Run
from selfplay.errors import UserError
from selfplay.refiners.base import Refiner
from selfplay.refiners.demonstrate import DEMONSTRATE
from selfplay.refiners.lessons import LESSONS
from selfplay.refiners.rationalise import RATIONALISE

REFINERS: dict[str, Refiner] = {
    "none": Refiner(),
    "rationalise": RATIONALISE,
    "demonstrate": DEMONSTRATE,
    "lessons": LESSONS,
}


def check_refiner(run: Run, envs: Mapping[str, Env]) -> None:
    """Refuse a refiner that needs answers of an environment that has none.

    Raises:
      UserError: with the field and the environment.
    """
    for name, env in envs.items():
        if REFINERS[run.refine.kind].gold and not isinstance(env, Verifiable):
            raise UserError(f"refine.kind = {run.refine.kind} needs gold answers, and environment {name} has none")


__all__ = ["REFINERS", "Refiner", "check_refiner"]
