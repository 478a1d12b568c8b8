"""Imports point one way, and the names of variants in config are the keys of the dicts that hold them."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from selfplay import config, errors, records

ROOT = Path(__file__).parent.parent

LEVELS = (
    {"envs"},
    {
        "selfplay",
        "config",
        "errors",
        "records",
        "streams",
        "tree",
        "arguments",
        "flags",
        "folders",
        "heap",
        "recipe",
        "watch",
        "compilations",
    },
    {"models", "credit", "losses", "game_tree", "templates", "prompts"},
    {
        "sampler",
        "sampler_programs",
        "caches",
        "branches",
        "devices",
        "draw",
        "trie",
        "waiting",
        "written",
        "checkpoint",
        "manifest",
        "metrics",
        "archive",
        "novelty",
        "memory",
        "pairs",
        "votes",
        "standing",
        "cluster",
        "actor_processes",
        "hosts",
        "layout",
        "packing",
        "readout",
        "summaries",
        "objective",
        "opponents",
        "optimizer",
        "payoffs",
        "ratings",
        "programs",
        "units",
        "seats",
        "room",
        "side_by_side",
        "provenance",
    },
    {
        "acquire",
        "refine",
        "refiners",
        "heed",
        "update",
        "evaluate",
        "experience",
        "game_curves",
        "compare",
        "compare_plot",
        "export",
        "archive_table",
        "score",
        "state",
        "play",
        "match",
        "exact_play",
        "arena",
    },
    {
        "actor",
        "crew",
        "joint",
        "joint_sampler",
        "learner",
        "examine",
        "terminal",
        "footprint",
        "plan",
        "plan_table",
        "pretrain",
    },
    {"cli", "__main__"},
)
"""Rooms from the lowest up; a room may import its own level and those below."""
PHASES = {"acquire", "refine", "update", "evaluate"}
LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


def modules() -> list[Path]:
    return sorted(p for folder in ("selfplay", "envs") for p in (ROOT / folder).rglob("*.py"))


def room_of(module: str) -> str:
    """`selfplay.cluster.local` is in the room `cluster`, everything of envs in `envs`."""
    top, _, rest = module.partition(".")
    return top if top == "envs" or not rest else rest.split(".")[0]


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at any depth of its code, by full name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide which way they point"
            assert node.module is not None
            if node.module in ("selfplay", "envs"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def wrong_imports(module: str, imported: Iterator[str] | list[str]) -> list[str]:
    """The imports of a module that point the wrong way."""
    room, wrong = room_of(module), []
    for target in imported:
        top = target.partition(".")[0]
        if room == "envs" and top in ("selfplay", "jax", "jaxlib", "flax"):
            wrong.append(target)
        if top not in ("selfplay", "envs") or room == "envs":
            continue
        other = room_of(target)
        upwards = LEVEL_OF[other] > LEVEL_OF[room]
        across = room in PHASES and other in PHASES - {room, "acquire"}
        if upwards or across:
            wrong.append(target)
    return wrong


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    assert room_of(name_of(path)) in LEVEL_OF, f"give {name_of(path)} a level here, and a place in the README tree"
    assert wrong_imports(name_of(path), imports(path)) == []


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("envs.sums", "selfplay.errors"),
        ("envs.sums", "jax.numpy"),
        ("selfplay.losses", "selfplay.update"),
        ("selfplay.refine", "selfplay.update"),
        ("selfplay.cluster.local", "selfplay.actor"),
        ("selfplay.config", "selfplay.models"),
        ("selfplay.learner", "selfplay.cli"),
    ],
)
def test_a_wrong_import_is_caught(module: str, imported: str) -> None:
    assert wrong_imports(module, [imported]) == [imported]


def test_the_allowed_directions_are_allowed() -> None:
    assert wrong_imports("selfplay.evaluate", ["selfplay.acquire", "selfplay.sampler", "envs.base", "numpy"]) == []


@pytest.mark.parametrize(
    ("module", "dictionary", "literal"),
    [
        ("selfplay.losses", "LOSSES", config.LossName),
        ("selfplay.losses", "KL", config.KlEstimator),
        ("selfplay.credit", "PAYS", config.Pay),
        ("selfplay.templates", "TEMPLATES", config.TemplateKind),
        ("selfplay.refiners", "REFINERS", config.RefinerName),
    ],
)
def test_the_names_in_config_are_the_keys(module: str, dictionary: str, literal: object) -> None:
    assert set(getattr(importlib.import_module(module), dictionary)) == set(get_args(literal))


@pytest.mark.parametrize("room", sorted(set(LEVEL_OF) - {"selfplay"}))
def test_every_room_exists_and_stands_in_the_readme(room: str) -> None:
    found = [p for p in (ROOT / room, ROOT / "selfplay" / room, ROOT / "selfplay" / f"{room}.py") if p.exists()]
    assert found, f"no room {room}: take it out of LEVELS"
    name = found[0].name if found[0].is_file() else f"{room}/"
    assert name in (ROOT / "README.md").read_text(), f"{name} is missing from the tree in README.md"


def test_records_and_errors_are_where_others_expect_them() -> None:
    assert set(records.ROLES) == set(get_args(records.Role))
    assert issubclass(errors.CheckpointError, errors.UserError)


def test_actors_start_before_jax_is_imported() -> None:
    lines = "import sys, selfplay.actor_processes; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", lines], check=True, timeout=60)
