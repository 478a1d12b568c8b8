"""A generation's task archive for people and programs: `selfplay archive RUN` lists, filters and exports it."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

import envs
from selfplay import recipe
from selfplay.archive import Entry, TaskArchive
from selfplay.checkpoint import Generations
from selfplay.config import Run
from selfplay.errors import UserError, nearest
from selfplay.export import which_generation
from selfplay.folders import CONFIG
from selfplay.standing import STANDINGS, Standing, pooled, wilson

ROWS = 20
"""Tasks that the table shows unless told otherwise."""
WIDTH = 48
"""Characters of a task's text in the table."""

SORTS: dict[str, Callable[[Entry], float]] = {
    "last": lambda e: -e.last_step,
    "first": lambda e: e.first_step,
    "p": lambda e: _rate(*pooled(e.tallies)),
    "attempts": lambda e: -e.attempts,
    "taught": lambda e: -e.taught,
    "novelty": lambda e: e.cluster_before + e.shape_before,
    "difficulty": lambda e: -e.task.difficulty,
}
"""Orders of the list: met last, come first, hardest, most tried, most shown to those who proposed, least like what was
held when it came, and by difficulty. Equals stay in the archive's own order, the one met longest ago first."""


def archive_command(
    run: Path,
    *,
    generation: int | None = None,
    status: Standing | None = None,
    env: str | None = None,
    difficulty: int | None = None,
    sort: str = "last",
    limit: int = ROWS,
    out: Path | None = None,
) -> str:
    """What `selfplay archive RUN` prints: a count by status and the first `limit` tasks; `out` gets all of them.

    Args:
      run: a run folder.
      generation: whose archive; None = the newest complete one.
      status, env, difficulty: keep the tasks of which this is so.
      sort: a key of SORTS.
      limit: rows of the table; 0 = all.
      out: a new file, one JSON object a task.

    Raises:
      UserError: an argument out of range, a file that is in the way, or no such complete generation.
    """
    for name, value, valid in (("--status", status, STANDINGS), ("--sort", sort, tuple(SORTS))):
        if value is not None and value not in valid:
            raise UserError(f"{name} {value}: {nearest(value, valid)}")
    if limit < 0:
        raise UserError(f"--limit must be >= 0, got {limit}")
    if out is not None and out.exists():
        raise UserError(f"{out} exists already: choose another --out")
    if out is not None and not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")
    config = recipe.from_toml(run / CONFIG)
    generations = Generations(run / "generations", config.output.keep)
    generation = which_generation(generations, generation, run)
    kept = config.archive
    blob = generations.load_blobs(generation)["archive"]
    archive = TaskArchive.from_bytes(blob, capacity=kept.capacity, retire=kept.retire)
    entries = sorted(_chosen(archive, config, status, env, difficulty), key=SORTS[sort])
    if out is not None:
        export(archive, entries, out)
    lines = table(archive, entries[: limit or None])
    head = f"generation {generation} of {run}: {_counts(archive, entries)}"
    rest = len(entries) - (limit or len(entries))
    more = [f"and {rest} more (--limit 0 shows all, --out FILE.jsonl keeps all)"] if rest > 0 and out is None else []
    wrote = [f"wrote {len(entries)} tasks to {out}"] if out is not None else []
    return "\n".join([head, *lines, *more, *wrote])


def _chosen(
    archive: TaskArchive, config: Run, status: Standing | None, env: str | None, difficulty: int | None
) -> list[Entry]:
    held = {e.task.env for e in archive}
    if env is not None and env not in held and env in config.envs:
        env = envs.make(env, **config.envs[env].options).spec.name  # module:Class, or nothing of it was met yet
    elif env is not None and env not in held:
        raise UserError(f"--env {env}: the archive has no task of it; {nearest(env, held | set(config.envs))}")
    return [
        e
        for e in archive
        if (status is None or archive.standing(e.task.key) == status)
        and (env is None or e.task.env == env)
        and (difficulty is None or e.task.difficulty == difficulty)
    ]


def _counts(archive: TaskArchive, entries: Sequence[Entry]) -> str:
    found = Counter(archive.standing(e.task.key) for e in entries)
    return f"{len(entries)} of {len(archive)} tasks, " + ", ".join(f"{found[name]} {name}" for name in STANDINGS)


def table(archive: TaskArchive, entries: Sequence[Entry]) -> list[str]:
    """Aligned lines, the names of the columns first; nothing for no tasks.

    Text that a model wrote is shown as ASCII with escapes, so that none of it commands the terminal.
    """
    if not entries:
        return []
    head = "key env mode diff status p interval tries met taught gen proposer task".split()
    rows = [head, *(_cells(archive, e) for e in entries)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _cells(archive: TaskArchive, e: Entry) -> list[str]:
    k, n = pooled(e.tallies)
    low, high = wilson(k, n)
    text = json.dumps(e.task.content)[1:-1]
    return [
        e.task.key[:10],
        e.task.env,
        e.task.mode,
        str(e.task.difficulty),
        archive.standing(e.task.key),
        f"{k / n:.2f}" if n else "-",
        f"{low:.2f}-{high:.2f}",
        str(e.attempts),
        str(e.met),
        str(e.taught),
        str(e.first_generation),
        f"{e.proposer.policy}@{e.proposer.version}" if e.proposer else "given",
        text if len(text) <= WIDTH else text[: WIDTH - 3] + "...",
    ]


def export(archive: TaskArchive, entries: Sequence[Entry], out: Path) -> None:
    """Write entries as JSON lines, all of them or none.

    Raises:
      UserError: the file cannot be written.
    """
    part = out.with_name(out.name + ".part")
    try:
        part.write_bytes(b"".join(msgspec.json.encode(line_of(archive, e)) + b"\n" for e in entries))
        os.replace(part, out)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from None


def line_of(archive: TaskArchive, e: Entry) -> dict[str, Any]:
    """One task as docs/archive.md explains it."""
    k, n = pooled(e.tallies)
    return {
        "key": e.task.key,
        "env": e.task.env,
        "mode": e.task.mode,
        "difficulty": e.task.difficulty,
        "origin": e.task.origin,
        "status": archive.standing(e.task.key),
        "generation": e.first_generation,
        "first_step": e.first_step,
        "last_step": e.last_step,
        "proposer": e.proposer,
        "parents": e.task.parents,
        "taught": e.taught,
        "children": e.children,
        "shape": e.shape,
        "cluster": e.cluster,
        "novelty_shape": 1 / (1 + e.shape_before),
        "novelty_cluster": 1 / (1 + e.cluster_before),
        "proposed": e.proposed,
        "met": e.met,
        "attempts": e.attempts,
        "solves": e.solves,
        "unjudged": e.unjudged,
        **_estimate(k, n),
        "by_version": [
            {
                "solver": t.solver,
                "attempts": t.attempts,
                "solves": t.solves,
                "unjudged": t.unjudged,
                **_estimate(t.solves, t.attempts),
            }
            for t in e.tallies
        ],
        "task": e.task,
    }


def _rate(k: int, n: int) -> float:
    """To sort by: a task that nobody tried comes last."""
    return k / n if n else 2.0


def _estimate(k: int, n: int) -> dict[str, Any]:
    return {"p": k / n if n else None, "interval": wilson(k, n)}
