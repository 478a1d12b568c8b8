"""`python -m benchmarks beside COMMAND --peer PEER --peer-python PATH`: ours and a peer's by turns, as whole commands.

    python -m benchmarks beside rollout --peer tunix --peer-python /path/of/its/venv/bin/python [--rounds 3] [...]

prints one JSON object: the figures of both, each the median of a command, over the rounds, and `ratio`, how many times
as fast ours is: above 1 ours is faster. Only commands of one round are compared. Run nothing else meanwhile.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.figures import spread, spreads
from benchmarks.parser import MAY_BE_ZERO, Parser
from benchmarks.peers import PEERS
from selfplay.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
HEADLINE = {"rollout": "tokens_per_s", "update": "tokens_per_s", "update-grouped": "tokens_per_s", "step": "s_per_step"}
"""What is compared; a figure in seconds is better when it is lower."""
OUR_OWN = ("row_tokens", "micro_rows", "logit_chunk", "devices")
"""Ours alone: how sequences are packed and read out, and how many devices share the rows; as the benchmark has it where
it is not given. The peers' choices are those of `benchmarks.peers`."""


def main(argv: Sequence[str]) -> None:
    """The command `beside`; see the top of this file."""
    args = _parse(argv)
    with TemporaryDirectory() as scratch:
        folder = str(Path(args.model).expanduser().resolve())
        if args.model == "bench-tiny":
            folder = str(Path(scratch) / "bench-tiny")
            run([sys.executable, "-m", "benchmarks", "save", "--out", folder])
        commands = {"ours": our_command(args, folder), "theirs": peer_command(args, folder)}
        before, rounds = os.getloadavg(), []
        for i in range(args.rounds):
            order = ("ours", "theirs") if i % 2 == 0 else ("theirs", "ours")
            rounds.append({who: last_object(run(commands[who])) for who in order})
    about = {"benchmark": "beside", "command": args.command, "peer": args.peer, "model": args.model}
    load = {"start": round(before[0], 2), "end": round(os.getloadavg()[0], 2)}
    print(json.dumps(about | {"load_average": load} | summary(args.command, rounds)))


def _parse(argv: Sequence[str]) -> Namespace:
    common = {"rounds": 3, "repeats": 3, "threads": 2}
    parser = Parser("python -m benchmarks beside", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=HEADLINE)
    parser.add_argument("--peer", required=True, choices=PEERS)
    parser.add_argument("--peer-python", required=True, help="an interpreter that has the peer installed")
    parser.add_argument("--model", default="bench-tiny", help="bench-tiny, or a Hugging Face folder")
    for option, default in common.items():
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--row-tokens", type=int, help="of our packed rows; as the benchmark has it if not given")
    parser.add_argument("--micro-rows", type=int, help="of ours at a time; likewise")
    parser.add_argument("--logit-chunk", type=int, help="positions whose logits ours holds at a time; likewise")
    parser.add_argument("--devices", type=int, help="of ours that share the rows; likewise")
    parser.add_argument("--peer-micro-rows", type=int, help="sequences of the peer's at a time")
    for size in sorted({size for sizes in PEERS.values() for of in sizes.values() for size in of} - set(OUR_OWN)):
        parser.add_argument(f"--{size.replace('_', '-')}", type=int, help="a size of the work, for both")
    args = parser.parse_args(argv)
    sizes = PEERS[args.peer].get(args.command)
    if sizes is None:
        raise UserError(f"--peer {args.peer} does {', '.join(PEERS[args.peer])}, not {args.command}")
    if args.model != "bench-tiny" and not Path(args.model).expanduser().is_dir():
        raise UserError(f"--model {args.model!r}: no such folder; by name: bench-tiny")
    if shutil.which(args.peer_python) is None:
        raise UserError(f"--peer-python {args.peer_python}: no such program")
    own = ("devices",) if args.command == "rollout" else OUR_OWN
    ours_and_common = (*common, "peer_micro_rows", *own)
    for option, value in vars(args).items():
        if isinstance(value, int) and value < (least := int(option not in MAY_BE_ZERO)):
            raise UserError(f"--{option.replace('_', '-')} must be >= {least}, got {value}")
        if isinstance(value, int) and option not in ours_and_common and option not in sizes:
            raise UserError(f"{args.command} has no size --{option.replace('_', '-')}")
    return args


def our_command(args: Namespace, folder: str) -> list[str]:
    """Ours, at the peer's sizes: what is not given is the peer's default, which is ours too."""
    own = {name: getattr(args, name) for name in OUR_OWN if getattr(args, name) is not None}
    return [
        sys.executable, "-m", "benchmarks", args.command,
        *_options(args, folder, _sizes(args) | own),
    ]  # fmt: skip


def peer_command(args: Namespace, folder: str) -> list[str]:
    """The peer's, in its own interpreter."""
    given = {"micro_rows": args.peer_micro_rows} if args.peer_micro_rows else {}
    return [
        args.peer_python, "-m", "benchmarks.peers", args.peer, args.command,
        *_options(args, folder, _sizes(args) | given),
    ]  # fmt: skip


def _sizes(args: Namespace) -> dict[str, int]:
    sizes = {size: n for size, n in PEERS[args.peer][args.command].items() if size != "micro_rows"}
    return {size: getattr(args, size) or default for size, default in sizes.items()}


def _options(args: Namespace, folder: str, sizes: dict[str, int]) -> list[str]:
    options = {"model": folder, "threads": args.threads, "repeats": args.repeats} | sizes
    return [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def run(command: Sequence[str]) -> str:
    """What a whole command prints on standard output; it runs at the repository's root."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UserError(f"{' '.join(command[:6])} ... ended with {done.returncode}: {last}")
    return done.stdout


def last_object(output: str) -> dict[str, Any]:
    """The JSON object that a benchmark prints last, whatever libraries said before it."""
    last = (output.strip().splitlines() or [""])[-1]
    try:
        found = json.loads(last)
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"a benchmark must end with one JSON object, got {last[:120]!r}")
    return found


def summary(command: str, rounds: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Each round's ratio, their median and extremes, and the figures that both have.

    Args:
      rounds: what ours and theirs printed.
    """
    figure = HEADLINE[command]
    pairs = [(r["ours"][figure]["median"], r["theirs"][figure]["median"]) for r in rounds]
    ratios = [theirs / ours if figure.startswith("s_") else ours / theirs for ours, theirs in pairs]
    both = [
        k for k, v in rounds[0]["theirs"].items() if isinstance(v, dict) and "median" in v and k in rounds[0]["ours"]
    ]
    found: dict[str, Any] = {"ratio_of": figure, "ratio": spread(ratios), "ratios": ratios}
    for who in ("ours", "theirs"):
        found[who] = spreads([{name: r[who][name]["median"] for name in both} for r in rounds])
        found[who]["peak_bytes"] = max((r[who]["peak_bytes"] for r in rounds if "peak_bytes" in r[who]), default=None)
    return found | {"versions": rounds[0]["theirs"].get("versions", {})}
