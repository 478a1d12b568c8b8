"""`python -m benchmarks.peers PEER COMMAND --model FOLDER [--option VALUE ...]` prints one JSON object, keys as ours.

Threads are fixed before torch or jax is imported, so peers are imported late.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from benchmarks.peers import PACKAGES, PEERS


def main(argv: Sequence[str] | None = None) -> int:
    """Measure one peer at one piece of work; returns the process's exit code."""
    given = vars(_parser().parse_args(argv))
    peer, command = given.pop("peer"), given.pop("command")
    fix_threads(given["threads"])
    measure = importlib.import_module(f"benchmarks.peers.by_{peer}").COMMANDS[command]
    found: dict[str, Any] = measure(**given)
    versions = {name: version(name) for name in PACKAGES[peer]}
    print(json.dumps({"benchmark": command, "peer": peer, "versions": versions, **given, **found}))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks.peers", allow_abbrev=False)
    peers = parser.add_subparsers(dest="peer", required=True)
    for peer, commands in PEERS.items():
        chosen = peers.add_parser(peer, allow_abbrev=False).add_subparsers(dest="command", required=True)
        for command, options in commands.items():
            one = chosen.add_parser(command, allow_abbrev=False)
            one.add_argument("--model", required=True, help="a Hugging Face folder; `python -m benchmarks save`")
            for option, default in ({"threads": 2, "repeats": 5} | dict(options)).items():
                one.add_argument(f"--{option.replace('_', '-')}", type=int, default=default)
    return parser


def fix_threads(threads: int) -> None:
    """As ours are: so many cores, and as many threads of torch (OMP, MKL) or XLA (NPROC)."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ.update({name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")})
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")


if __name__ == "__main__":
    raise SystemExit(main())
