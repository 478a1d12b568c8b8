"""Recipes: short TOML files over the defaults of config/, and the resolved config of a run.

Precedence: default < recipe < command line. Tables are merged field by field, but naming one of REPLACED replaces
all of it, since its keys are choices. A recipe may start from another: `base = "quickstart"`, one level deep.
Besides fields of `Run` a recipe holds `summary` (one line) and `paper` (where the method comes from).
What any recipe needs on an environment that it does not name stands in recipes/env/, and `--env NAME` lays it over the
recipe.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import envs
from envs.base import Env, EnvUserError, Proposable, Unchecked
from selfplay import flags
from selfplay.config import EnvChoice, Hosts, Run
from selfplay.errors import UserError, nearest
from selfplay.folders import CONFIG, PART
from selfplay.tree import Table, build, dump_toml, merge, plain

FOLDER = Path(__file__).parent / "recipes"
EMBEDDED = {"dsl": "tiny-dsl-induce"}
"""Which embedded model `policies.NAME.model = auto` is, by the run's first environment; `tiny` for all others."""
REPLACED = ("envs", "acquire.mix", "opponents.mix")
HEADER = "# The resolved configuration of this run, every field of it. Edit a recipe, not this file.\n\n"


@dataclass(frozen=True)
class Recipe:
    """A recipe file, its base merged in."""

    name: str
    summary: str
    paper: str
    table: Mapping[str, Any]


def names() -> tuple[str, ...]:
    """The recipes that come with the package, quickstart ones first."""
    found = [p.stem for p in FOLDER.glob("*.toml")]
    return tuple(sorted(found, key=lambda n: (not n.startswith("quickstart"), n)))


def load(name_or_path: str) -> Recipe:
    """A recipe by name, or a person's own TOML file by its path.

    Raises:
      UserError: no such recipe, no valid TOML, or a base that has a base.
    """
    path = _path(name_or_path)
    table = _read(path)
    if "base" in table:
        below = _read(_path(_text(table, "base", path), beside=path.parent))
        if "base" in below:
            raise UserError(f"recipe {path.stem}: its base {table['base']} has a base itself; one level only")
        below.pop("summary", None)
        table = merge(below, table, REPLACED)
    meta = {key: _text(table, key, path) for key in ("summary", "paper")}
    fields = {k: v for k, v in table.items() if k not in ("base", "summary", "paper", "recipe")}
    return Recipe(path.stem, meta["summary"], meta["paper"], fields)


def resolve(name_or_path: str, overrides: Sequence[str] = (), *, env: str | None = None) -> Run:
    """The run that a recipe and flags describe.

    Args:
      overrides: flags, as in `["--update.learning-rate", "3e-4"]`.
      env: train on this environment alone: as the recipe has it, else as recipes/env/ says, else with its default
        modes, difficulties and options.
    """
    recipe = load(name_or_path)
    table = merge(merge(plain(Run()), recipe.table, REPLACED), {"recipe": recipe.name})
    if env is not None:
        known = table["envs"].get(env)
        table["envs"] = {env: known or plain(EnvChoice())}
        path = FOLDER / "env" / f"{env}.toml"
        if known is None and path.is_file():
            table = merge(table, _read(path))
    return _with_flags(table, overrides)


def example(name_or_path: str, *, env: str | None = None) -> Run:
    """The run of a recipe for its help page; a recipe that needs another run gets a placeholder."""
    yoked = load(name_or_path).table.get("acquire", {}).get("mix", {}).get("yoked", 0) > 0
    return resolve(name_or_path, ["--acquire.yoked-run", "RUN"] if yoked else [], env=env)


def resume(folder: Path, overrides: Sequence[str] = (), *, recipe: str | None = None, env: str | None = None) -> Run:
    """The config that a stopped run goes on with: its own, but for what may change between a stop and a resume.

    Raises:
      UserError: a change of anything but `cluster.*`, `hosts.*`, `mesh.*` and a larger `schedule.generations`.
    """
    old = from_toml(folder / CONFIG)
    if recipe is not None and load(recipe).name != old.recipe:
        raise UserError(f"{folder} was started from recipe {old.recipe}, not {recipe}: use another --out")
    if env is not None and set(old.envs) != {env}:
        raise UserError(f"{folder} trains on {', '.join(sorted(old.envs))}, not {env}: use another --out")
    new = _with_flags(plain(replace(old, hosts=Hosts())), overrides)
    check_resume(old, new)
    return new


def check_resume(old: Run, new: Run) -> None:
    """Refuse to resume with settings that would make another run of it."""
    if new.schedule.generations < old.schedule.generations:
        raise UserError(
            f"schedule.generations may only grow on --resume: it is {old.schedule.generations}, "
            f"got {new.schedule.generations}"
        )
    allowed = replace(old.schedule, generations=new.schedule.generations)
    free = replace(old, schedule=allowed, cluster=new.cluster, hosts=new.hosts, mesh=new.mesh)
    changed = _first_change(plain(free), plain(new))
    if changed is not None:
        may = "only cluster.*, hosts.*, mesh.* and a larger schedule.generations can"
        raise UserError(f"{changed} cannot change on --resume ({may})")


def fix_threads(run: Run) -> Run:
    """`cluster.threads = auto` as the number of cores that this process may use: part of what fixes a run's bits."""
    if run.cluster.threads != "auto":
        return run
    return replace(run, cluster=replace(run.cluster, threads=len(os.sched_getaffinity(0))))


def check_envs(run: Run) -> None:
    """Refuse a run whose environments do not exist, lack what it asks for, or cannot propose where it proposes."""
    for name, choice in run.envs.items():
        env = envs.make(name, **choice.options)
        _check_seats(run, name, env)
        for label, asked, has in (
            ("modes", choice.modes, env.spec.modes),
            ("difficulties", choice.difficulties, env.spec.difficulties),
        ):
            for item in asked:
                if item not in has:
                    raise EnvUserError(f"envs.{name}.{label}: it has no {item}; valid: {', '.join(map(str, has))}")
        if run.propose.leak and not isinstance(env, Unchecked):
            raise UserError(
                f"propose.leak: environment {name} makes no tasks of rejected proposals; dsl does, or write "
                "`unchecked` (docs/environments.md)"
            )
        if _proposes(run.acquire.mix) and env.spec.seats == 1 and not isinstance(env, Proposable):
            mixes = {n: load(n).table.get("acquire", {}).get("mix", {"propose": 1}) for n in names()}
            others = [n for n, mix in mixes.items() if not _proposes(mix) and "play" not in mix]
            raise UserError(
                f"environment {name} cannot turn proposals into tasks, and recipe {run.recipe} proposes; "
                f"recipes that work: {', '.join(others)}"
            )


def _check_seats(run: Run, name: str, env: Env) -> None:
    """Refuse a game where the recipe plays none, tasks where it only plays, and games that are not zero-sum."""
    game = env.spec.seats > 1
    if game and not (run.plays and env.spec.zero_sum and env.spec.seats == 2):
        what = f"is a game of {env.spec.seats} seats" + ("" if env.spec.zero_sum else " that is not zero-sum")
        if run.plays:
            raise UserError(f"environment {name} {what}: zero-sum games of two seats are played")
        raise UserError(f"environment {name} {what}, and recipe {run.recipe} plays none; {_works(plays=True)}")
    if not game and "solve" not in run.used_roles:
        raise UserError(f"environment {name} is no game, and recipe {run.recipe} only plays; {_works(plays=False)}")


def _works(*, plays: bool) -> str:
    """The recipes that play games, or those that do not."""
    found = [n for n in names() if ("play" in load(n).table.get("acquire", {}).get("mix", {})) == plays]
    return f"recipes that work: {', '.join(found)}"


def to_toml(run: Run) -> str:
    """The whole config as TOML; `from_toml` of it gives an equal Run."""
    return HEADER + dump_toml(plain(run))


def write(run: Run, folder: Path) -> None:
    """Write config.toml into a run folder; killed at any moment, it is there whole or not at all."""
    part = folder / PART
    part.write_text(to_toml(run), encoding="utf-8")
    part.replace(folder / CONFIG)


def from_toml(path: Path) -> Run:
    """The config of a run folder."""
    return build(Run, _read(path))


def from_text(text: str) -> Run:
    """The inverse of `to_toml`."""
    return build(Run, tomllib.loads(text))


def _with_flags(table: Table, overrides: Sequence[str]) -> Run:
    given, positional = flags.parse(overrides)
    if positional:
        raise UserError(f"unexpected argument {positional[0]!r}: flags are --field value")
    return _with_models(build(Run, merge(table, given)))


def _with_models(run: Run) -> Run:
    """`auto` as the name of the embedded model that knows the run's first environment."""
    auto = EMBEDDED.get(next(iter(run.envs), ""), "tiny")
    policies = {name: replace(p, model=auto) if p.model == "auto" else p for name, p in run.policies.items()}
    return replace(run, policies=policies)


def _proposes(mix: Mapping[Any, float]) -> bool:
    return mix.get("propose", 0) > 0


def _path(name_or_path: str, beside: Path | None = None) -> Path:
    if name_or_path in names():
        return FOLDER / f"{name_or_path}.toml"
    if name_or_path.endswith(".toml"):
        path = (beside or Path()) / name_or_path
        if path.is_file():
            return path
        raise UserError(f"no recipe file {path}")
    raise UserError(f"unknown recipe {name_or_path!r}; {nearest(name_or_path, names())}")


def _read(path: Path) -> Table:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no file {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {' '.join(str(error).split())}") from error


def _text(table: Mapping[str, Any], key: str, path: Path) -> str:
    value = table.get(key, "")
    if not isinstance(value, str):
        raise UserError(f"recipe {path.stem}: {key} must be text, got {value!r}")
    return value


def _first_change(old: Any, new: Any, path: str = "") -> str | None:
    """The dotted name of the first field that differs."""
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return path if old != new else None
    for name in dict.fromkeys((*old, *new)):
        here = f"{path}.{name}" if path else name
        if name not in old or name not in new:
            return here
        changed = _first_change(old[name], new[name], here)
        if changed is not None:
            return changed
    return None
