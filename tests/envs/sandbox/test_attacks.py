"""The red team: every program in `attacks/`, on every tier that this machine has, and an honest one after each.

A file's second line says what must come of it: a status or several, `ok` with the very value, `not LITERAL` (the call
must not be graded as that value), or `varies` (the call must not count as deterministic; eight witnesses miss one
fair bit once in 128 and keep what they drew while they live, so it is held against it where those of two more sandboxes
miss it too).
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from envs.sandbox import Sandbox, SandboxRefused
from envs.sandbox.worker import Tier

ATTACKS = sorted((Path(__file__).parent / "attacks").rglob("*.py"))
TIERS: tuple[Tier, ...] = ("A", "B", "C")
BAIT = Path("/tmp/selfplay-bait")
HONEST = "MARK = 'an honest_marker to be found'\ndef f(x):\n    return [sum(x), sorted(set(x)), {'n': len(x)}]\n"


def breach(sandbox: Sandbox, path: Path) -> str | None:
    """Run one attack, then an honest program; what went wrong, if anything."""
    program = path.read_text()
    holds = program.split("\n")[1].removeprefix("# holds: ")
    if holds == "varies":
        agreed = sandbox.deterministic(program, "attack()", timeout_s=5.0)
        if agreed and all(_agreed(sandbox.tier, program) for _ in range(2)):
            return "counts as deterministic"
    elif holds.startswith("not "):
        literal = holds.removeprefix("not ")
        if sandbox.grade(program, "attack()", literal, timeout_s=0.15 if "loop" in path.stem else 5.0):
            return f"was graded as {literal}"
    else:
        result = sandbox.run(program, "attack()", timeout_s=0.15 if "timeout" in holds else 5.0)
        if result.wall_s > 5.5:
            return f"lasted {result.wall_s} s"
        told = f"ok {result.text}" if result.status == "ok" else result.status
        if told not in holds.split("|"):
            return f"{told} ({result.text})"
    if not sandbox.grade(HONEST, "f([3, 1, 3])", "[7, [1, 3], {'n': 3}]", timeout_s=5.0):
        return "an honest program is no longer graded right"
    return None


def _agreed(tier: Tier, program: str) -> bool:
    """Whether witnesses that nobody asked before agree."""
    with Sandbox(workers=1, tier=tier, memory_bytes=192 * 2**20) as fresh:
        return fresh.deterministic(program, "attack()", timeout_s=5.0)


@pytest.fixture(scope="module", params=TIERS)
def outcomes(request: pytest.FixtureRequest) -> Iterator[dict[Path, Future[str | None]]]:
    """All attacks of a tier, two at a time on one pool: its workers are few, so they meet what came before."""
    try:
        sandbox = Sandbox(workers=2, tier=request.param, memory_bytes=192 * 2**20)
    except SandboxRefused as error:
        pytest.skip(str(error))
    BAIT.write_text("bait")
    with sandbox, ThreadPoolExecutor(2) as threads:
        yield {path: threads.submit(breach, sandbox, path) for path in ATTACKS}
    assert BAIT.read_text() == "bait"
    BAIT.unlink()
    assert list(Path("/tmp").glob("selfplay-escape*")) == []


@pytest.mark.parametrize("path", ATTACKS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_attack_is_held(outcomes: dict[Path, Future[str | None]], path: Path) -> None:
    assert outcomes[path].result() is None


def test_there_are_attacks_of_every_kind() -> None:
    kinds = [path.parent.name for path in ATTACKS]
    for kind in ("host_damage", "information_leak", "exhaustion", "verdict_forging", "nondeterminism", "deadline"):
        assert kinds.count(kind) >= 10
