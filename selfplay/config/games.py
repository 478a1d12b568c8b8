"""Who plays whom in games between copies of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from selfplay.config.bounds import check
from selfplay.errors import UserError

OpponentKind = Literal["latest", "uniform", "prioritised", "fixed", "bot"]
Learn = Literal["both", "latest"]


@dataclass(frozen=True, kw_only=True)
class Opponents:
    """Who sits across the table in games. The newest weights take every seat equally often."""

    mix: Mapping[OpponentKind, float] = field(default_factory=lambda: {"latest": 1.0})
    """Opponents by weight: latest (the newest weights themselves), uniform or prioritised (kept past generations, all
    alike or by how seldom they are beaten), fixed (those of `fixed`), bot (the scripted ones of `bots`)."""
    fixed: tuple[int, ...] = (0,)
    """Generations that mix.fixed draws from, all alike; always kept. One that is still to come is passed over."""
    bots: Mapping[str, float] = field(default_factory=dict)
    """Scripted players of the environment that mix.bot draws from, by weight."""
    pool: int = 8
    """Past generations kept loadable as opponents and to be rated against, besides 0 and the fixed ones. Beyond it the
    one closest to its neighbours in age goes, so that those kept span the whole run."""
    exponent: float = 2.0
    """Of mix.prioritised: a past generation is drawn by (1 - the share of games won against it) to this power."""
    learn: Learn = "both"
    """Of games of the newest weights against themselves: the loss counts both seats' tokens, or only those of the seat
    that would be theirs against another (latest). Tokens of past selves are never in the loss."""

    def __post_init__(self) -> None:
        for name, weight in self.mix.items():
            check(name in get_args(OpponentKind), "opponents.mix", f"over {', '.join(get_args(OpponentKind))}", name)
            check(weight >= 0, f"opponents.mix.{name}", ">= 0", weight)
        check(sum(self.mix.values()) > 0, "opponents.mix", "of positive weight in all", dict(self.mix))
        check(all(g >= 0 for g in self.fixed), "opponents.fixed", "generations >= 0", self.fixed)
        check(len(set(self.fixed)) == len(self.fixed), "opponents.fixed", "without repeats", self.fixed)
        check(self.pool >= 0, "opponents.pool", ">= 0", self.pool)
        check(self.exponent >= 0, "opponents.exponent", ">= 0", self.exponent)
        if self.drawn("fixed") and not self.fixed:
            raise UserError("opponents.mix.fixed needs opponents.fixed: the generations to play against")
        for bot, weight in self.bots.items():
            check(weight > 0, f"opponents.bots.{bot}", "> 0", weight)
        if self.drawn("bot") and not self.bots:
            raise UserError("opponents.mix.bot needs opponents.bots: scripted players of the environment, by weight")

    def drawn(self, kind: OpponentKind) -> bool:
        """Whether opponents of a kind are drawn at all."""
        return self.mix.get(kind, 0) > 0
