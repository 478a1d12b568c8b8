"""A command's own arguments: argparse, but a mistake is one line of ours."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from selfplay.errors import UserError, nearest


class Parser(argparse.ArgumentParser):
    """The arguments of one command."""

    def __init__(self, verb: str, description: str) -> None:
        super().__init__(prog=f"selfplay {verb}", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}")

    def read(self, args: list[str]) -> dict[str, Any]:
        """The arguments that were given, by name; those left out are absent."""
        known, unknown = self.parse_known_args(args)
        if unknown:
            options = [o for a in self._actions for o in a.option_strings if o.startswith("--")]
            raise UserError(f"{self.prog}: unknown argument {unknown[0]!r}; {nearest(unknown[0], options)}")
        return {k: v for k, v in vars(known).items() if v is not None}


def pull_switch(args: list[str], flag: str) -> bool:
    """Take a flag without a value out of the arguments."""
    found = flag in args
    args[:] = [a for a in args if a != flag]
    return found


def pull_value(args: list[str], flag: str) -> str | None:
    """Take `--flag value` or `--flag=value` out of the arguments."""
    for i, arg in enumerate(args):
        if arg == flag:
            if i + 1 == len(args) or args[i + 1].startswith("--"):
                raise UserError(f"{flag} needs a value")
            value = args[i + 1]
            del args[i : i + 2]
            return value
        if arg.startswith(flag + "="):
            return args.pop(i).partition("=")[2]
    return None
