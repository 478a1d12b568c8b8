"""What a device holds of the learner, on 1, 2, 4, ... devices, from the compiled programs: no weights are read.

    python -m benchmarks memory [--model tiny|FOLDER] [--devices 8] [--axis fsdp|tensor] [--rows 1] [--row-tokens 128]

prints one JSON object a mesh. Bytes are XLA's own account of one device (`compiled.memory_analysis()`): `state` is
parameters and optimizer, `step` the arguments of the optimizer step (the state, and the sum of gradients), `scratch`
what the gradient of a slab needs beside them. `ideal` is the state of one device over the number of devices.
"""

from __future__ import annotations

import json
import os
from argparse import RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from benchmarks.parser import Parser

if TYPE_CHECKING:
    from selfplay.config import Update
    from selfplay.models import ModelConfig


def measure(
    config: ModelConfig, update: Update, *, devices: int, axis: str, rows: int, row_tokens: int, scratch: bool = True
) -> Iterator[dict[str, int | str]]:
    """Bytes of one device, on 1, 2, 4, ... `devices` along a mesh axis; `rows` are those of one device."""
    from selfplay.config import RoleConfig
    from selfplay.models.sharding import batch_parts, make_mesh
    from selfplay.programs import Program
    from selfplay.update import Updater

    update = replace(update, micro_rows=rows)
    roles = {"propose": RoleConfig(), "solve": RoleConfig()}
    alone, count = 0, 1
    while count <= devices:
        mesh = make_mesh(**{axis: count})
        updater = Updater(config, update, roles, mesh)

        def used(program: Program, updater: Updater = updater, rows: int = rows * batch_parts(mesh)) -> Any:
            return updater.programs.lower(program, rows, row_tokens).compile().memory_analysis()

        state = int(used("init").output_size_in_bytes)
        alone = alone or state
        line: dict[str, int | str] = {
            "devices": count,
            "mesh": f"{axis} {count}",
            "state": state,
            "ideal": alone // count,
        }
        line["step"] = int(used("move").argument_size_in_bytes)
        yield line | ({"scratch": int(used("add").temp_size_in_bytes)} if scratch else {})
        count *= 2


def main(argv: Sequence[str]) -> None:
    """The command `memory`; see the top of this file."""
    parser = Parser("python -m benchmarks memory", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="`tiny`, or a Hugging Face folder (its config.json is enough)")
    parser.add_argument("--devices", type=int, default=8, help="the largest number of pretended CPU devices")
    parser.add_argument("--axis", choices=("data", "fsdp", "tensor"), default="fsdp")
    parser.add_argument("--rows", type=int, default=1, help="packed rows a device computes at a time")
    parser.add_argument("--row-tokens", type=int, default=128)
    parser.add_argument("--remat", choices=("none", "block"), default="none")
    parser.add_argument("--logit-chunk", type=int, default=512)
    args = parser.parse_args(argv)
    os.environ["JAX_NUM_CPU_DEVICES"] = str(args.devices)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

    from selfplay.config import Update
    from selfplay.models.config import read_config
    from selfplay.models.hf import locate

    update = Update(remat=args.remat, logit_chunk=args.logit_chunk)
    config = read_config(locate(args.model))
    for line in measure(
        config, update, devices=args.devices, axis=args.axis, rows=args.rows, row_tokens=args.row_tokens
    ):
        print(json.dumps(line))
