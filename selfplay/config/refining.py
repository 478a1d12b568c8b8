"""What refinement does besides pay and credit: ask for more work, pair, remember."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from selfplay.config.bounds import check

RefinerName = Literal["none", "rationalise", "demonstrate", "lessons"]


@dataclass(frozen=True, kw_only=True)
class Refine:
    """What happens to a step's experience between acquisition and update."""

    kind: RefinerName = "none"
    """rationalise = tasks that nobody solved are tried again with the answer shown; demonstrate = each attempt is
    paired with the environment's own answer; lessons = corrected failures are remembered and shown with like tasks."""
    hint: str = "{answer} "
    """Of rationalise: what stands before the question; {answer} is the environment's answer as it reads it."""
    capacity: int = 256
    """Of lessons: how many are remembered; the oldest go first."""
    shown: int = 2
    """Of lessons: how many are shown with a task, if there is room."""

    def __post_init__(self) -> None:
        check(self.hint.count("{answer}") == 1, "refine.hint", "a text with {answer} in it once", self.hint)
        check(self.capacity >= 1, "refine.capacity", ">= 1", self.capacity)
        check(self.shown >= 1, "refine.shown", ">= 1", self.shown)
