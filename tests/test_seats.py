"""Which version plays what, which versions stay, and when a generation becomes an opponent."""

from __future__ import annotations

from dataclasses import replace

from selfplay import recipe
from selfplay.config import Run
from selfplay.records import PolicyRef, Role
from selfplay.seats import is_new_opponent, kept_versions, seat, seats

MAIN = "main"


def frozen(run: Run, role: Role) -> Run:
    """The run with a role that is not trained."""
    return replace(run, roles={**run.roles, role: replace(run.roles[role], trainable=False)})


def mixed() -> Run:
    """Proposes, solves and plays."""
    return recipe.resolve("spiral", ["--acquire.mix.propose", "1", "--acquire.group-size", "2"])


def test_who_plays_what() -> None:
    run = recipe.resolve("quickstart-frozen")
    found = seats(run, newest=7, began=5, memory="m")
    assert found == {"propose": PolicyRef(MAIN, 0), "solve": PolicyRef(MAIN, 7, "m")}
    spin = recipe.resolve("spin")
    assert seats(spin, newest=7, began=5, memory="")["solve"] == PolicyRef(MAIN, 5)
    assert seat(recipe.resolve("spiral"), "play", 7, memory="m") == PolicyRef(MAIN, 7)


def test_versions_stay_for_as_long_as_somebody_plays_them() -> None:
    at = {"newest": 7, "began": 5, "past": (0, 2)}
    assert kept_versions(recipe.resolve("quickstart"), MAIN, **at) == {7}
    assert kept_versions(recipe.resolve("quickstart-frozen"), MAIN, **at) == {7, 0}
    assert kept_versions(recipe.resolve("spin"), MAIN, **at) == {7, 5}
    assert kept_versions(recipe.resolve("league"), MAIN, **at) == {7, 0, 2}
    assert kept_versions(recipe.resolve("league"), "other", **at) == {7}
    at["newest"] = None  # during an update
    kept = {
        name: kept_versions(recipe.resolve(name), MAIN, **at) for name in ("quickstart", "quickstart-frozen", "spin")
    }
    assert kept == {"quickstart": set(), "quickstart-frozen": {0}, "spin": {5}}


def test_a_generation_that_learnt_nothing_of_games_is_no_new_opponent() -> None:
    run = mixed()
    assert [is_new_opponent(run, g) for g in (0, 1)] == [True, True]
    still = frozen(run, "play")  # plays as version 0 for ever: a later label would name weights that nobody plays
    assert [is_new_opponent(still, g) for g in (0, 1)] == [True, False] and seat(still, "play", 9).version == 0
    assert not is_new_opponent(recipe.resolve("quickstart"), 0)
