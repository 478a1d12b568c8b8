"""How the benchmarks read their options."""

from __future__ import annotations

import argparse
from typing import NoReturn

from selfplay.errors import UserError


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and takes options by their whole names."""

    def __init__(self, prog: str, **settings: object) -> None:
        super().__init__(prog, allow_abbrev=False, **settings)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}")
