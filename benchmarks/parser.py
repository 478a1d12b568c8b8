"""How the benchmarks read their options."""

from __future__ import annotations

import argparse
from typing import NoReturn

from selfplay.errors import UserError

MAY_BE_ZERO = ("micro_rows", "slots", "logit_chunk")
"""Sizes of which 0 stands for all at once, or for none; every other one is at least 1."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and takes options by their whole names."""

    def __init__(self, prog: str, **settings: object) -> None:
        super().__init__(prog, allow_abbrev=False, **settings)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}")
