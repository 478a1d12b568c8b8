"""`python -m benchmarks COMMAND [--option VALUE ...]` prints one JSON object.

Threads are fixed before jax is imported, so what measures is imported late.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.parser import MAY_BE_ZERO, Parser
from selfplay.cli import prepare_jax
from selfplay.errors import SelfplayError, UserError, nearest, report


@dataclass(frozen=True)
class Command:
    """A benchmark: the module whose `run(subject, **options)` it is, and its options with their defaults."""

    module: str
    summary: str
    options: Mapping[str, int | float] = field(default_factory=dict)


MODELS = ("tiny", "bench-tiny")
GROUPS = {"tasks": 8, "group": 8, "prompt_tokens": 64, "new_tokens": 64}
SHARED = {"micro_rows": 2, "row_tokens": 576, "logit_chunk": 512, "devices": 1}
"""A row holds a prompt and its eight answers: 63 + 8 x 64 columns."""
COMMANDS = {
    "rollout": Command(
        "rollout",
        "tokens drawn a second, all of one length",
        {"batch": 32, "prompt_tokens": 64, "new_tokens": 128, "devices": 1},
    ),
    "rollout-mixed": Command(
        "rollout_mixed",
        "tokens drawn a second, groups that share a prompt, lengths geometric",
        {"tasks": 16, "group": 8, "prompt_tokens": 64, "new_tokens": 256, "mean_tokens": 48, "slots": 0, "devices": 1},
    ),
    "update": Command(
        "update",
        "tokens trained a second",
        {"sequences": 64, "tokens": 128, "micro_rows": 4, "row_tokens": 128, "logit_chunk": 512, "devices": 1},
    ),
    "update-grouped": Command("update_grouped", "the same for groups that share a prompt", GROUPS | SHARED),
    "step": Command("step", "a whole on-policy step by phase", GROUPS | SHARED),
}
LISTED = {name: command.summary for name, command in COMMANDS.items()} | {
    "memory": "bytes a device holds, from the compiled programs (docs/scaling.md)",
    "save": "a benchmark's model as a Hugging Face folder, for others to open",
    "sandbox": "verified runs of model-written programs a second, by tier",
    "beside": "ours and another's work by turns, and the ratio (docs/performance.md)",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a benchmark; returns the process's exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print("usage: python -m benchmarks COMMAND [--help]\n")
        print("\n".join(f"  {name:<15} {summary}" for name, summary in LISTED.items()))
        return 0 if args else 2
    try:
        if args[0] not in LISTED:
            raise UserError(f"unknown benchmark {args[0]!r}; {nearest(args[0], LISTED)}")
        if args[0] not in COMMANDS:
            importlib.import_module(f"benchmarks.{args[0]}").main(args[1:])
        else:
            print(json.dumps(measure(args[0], args[1:])))
    except (SelfplayError, KeyboardInterrupt) as error:
        return report(error) or 0
    return 0


def measure(name: str, args: Sequence[str]) -> dict[str, Any]:
    """What a command measures, after what it was asked."""
    command = COMMANDS[name]
    given = vars(_parser(name, command).parse_args(args))
    for option, value in given.items():
        if isinstance(value, int | float) and value < (least := int(option not in MAY_BE_ZERO)):
            raise UserError(f"--{option.replace('_', '-')} must be >= {least}, got {value}")
    if given["model"] not in MODELS and not Path(given["model"]).expanduser().is_dir():
        raise UserError(f"--model {given['model']!r}: no such folder; by name: {', '.join(MODELS)}")
    fix_threads(given["threads"], given["devices"])
    from benchmarks.subject import open_subject

    options = {option: given[option] for option in ("repeats", *command.options)}
    found = importlib.import_module(f"benchmarks.{command.module}").run(
        open_subject(given["model"], given["dtype"]), **options
    )
    return {"benchmark": name, **given, **found}


def _parser(name: str, command: Command) -> Parser:
    parser = Parser(f"python -m benchmarks {name}", description=command.summary)
    parser.add_argument("--model", default="bench-tiny", help="tiny, bench-tiny (3.3 M parameters), or a folder")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--threads", type=int, default=2, help="CPU threads, on as many cores")
    parser.add_argument("--repeats", type=int, default=5)
    for option, default in command.options.items():
        parser.add_argument(f"--{option.replace('_', '-')}", type=type(default), default=default)
    return parser


def fix_threads(threads: int, devices: int) -> None:
    """Keep this process, and every thread that it starts, to so many cores; XLA makes as many threads of its own.

    With several `devices` these share the rows, as with `mesh.data` in a run.
    XLA on CPU takes the size of its pool from NPROC when jax is first imported, and never more than the usable cores.
    """
    usable = sorted(os.sched_getaffinity(0))
    if threads > len(usable):
        raise UserError(f"--threads {threads}: this machine gives the process {len(usable)} cores")
    os.sched_setaffinity(0, usable[:threads])
    os.environ.update(OMP_NUM_THREADS=str(threads), OPENBLAS_NUM_THREADS=str(threads))
    prepare_jax(threads=threads, devices=devices)


if __name__ == "__main__":
    raise SystemExit(main())
