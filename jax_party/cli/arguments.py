"""Shared code of command lines: errors are one line, with the names that `make` and Python use for arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from rich.console import Console

#: The exit code of a command that could not do what it was asked for.
BAD_INPUT: Final = 2

_MISSING: Final = "the following arguments are required: "
_UNKNOWN: Final = "unrecognized arguments: "


class OneLineParser(argparse.ArgumentParser):
    """A parser with one-line errors, which name an argument by make's variable and by its own name.

    Parsers of subcommands are of this class, too; each is given its `variables`.
    """

    def __init__(self, *words: Any, variables: Mapping[str, str] | None = None, **settings: Any) -> None:
        """Create a parser; `variables` maps an argument, as the usage shows it (`--top`), to make's variable."""
        super().__init__(*words, **settings)
        self._variables = dict(variables or {})

    def error(self, message: str) -> NoReturn:
        """Print in one line what is wrong, and exit with 2."""
        print_error(self._explained(message))
        self.exit(BAD_INPUT)

    def _explained(self, message: str) -> str:
        if message.startswith(_MISSING):
            missing = message.removeprefix(_MISSING).split(", ")
            wanted = " ".join(f"{self._variables[name]}=…" if name in self._variables else name for name in missing)
            return f"{', '.join(map(self._called, missing))}: not given, but {self.prog} needs it; add {wanted}"
        if message.startswith(_UNKNOWN):
            return f"{message.removeprefix(_UNKNOWN)}: unknown; {self.prog} --help lists what there is"
        name, separator, what = message.removeprefix("argument ").partition(": ")
        return f"{self._called(name)}{separator}{what}"

    def _called(self, name: str) -> str:
        return f"{self._variables[name]} ({name})" if name in self._variables else name


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return a parser of whole numbers from `least` on, or up to `most`, for use as the `type` of an argument."""
    wanted = f"of {least} or more" if most is None else f"from {least} to {most}"

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least or (most is not None and number > most):
            raise argparse.ArgumentTypeError(f"expected a whole number {wanted}, got {text!r}")
        return number

    return read


def print_error(error: Exception | str) -> None:
    """Print an error in one line on stderr."""
    message = " ".join(str(error).split())
    Console(stderr=True, soft_wrap=True).print(f"error: {message}", markup=False, highlight=False)
