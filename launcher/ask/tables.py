"""Help texts and tables of the options, generated from `launcher.ask.options`.

`python -m launcher.ask.tables` updates the two that are kept in files, each between two marks: the table in
docs/sweeps.md and the launcher's part of `make help`.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from jax_party.errors import SweepError
from launcher.ask.options import VERBS, options_of

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs" / "sweeps.md"
MAKEFILE: Final = ROOT / "Makefile"
_WHAT: Final = "(python -m launcher.ask.tables writes what follows)"
DOCS_MARKS: Final = (f"<!-- options: begin {_WHAT} -->", "<!-- options: end -->")
MAKE_MARKS: Final = (f"# options: begin {_WHAT}", "# options: end")
TITLES: Final = {"sweep": "a sweep"}
_OPERANDS: Final = {"claim": "SWEEP_ARGS='ALG=mappo,ippo …'", "rerun": "TRIAL=<trial id, or its folder>"}
_WIDTH: Final = 120


def help_text() -> Iterator[str]:
    """Yield the lines of `--help` that list the options of every verb."""
    width = max(len(option.name) for verb in VERBS for option in options_of(verb))
    for verb in VERBS:
        yield f"\nOptions of {TITLES.get(verb, verb)}:"
        for option in options_of(verb):
            yield f"  {option.name:<{width}}  {_plain(option.meaning, option.default_of(verb))}"


def docs_table() -> str:
    """Return the table of a sweep's options, in Markdown."""
    lines = ["| option | default | meaning |", "|---|---|---|"]
    for option in options_of("sweep"):
        meaning = re.sub(r"docs/(\w+\.md)", r"[\1](\1)", option.meaning)
        lines.append(f"| `{option.name}` | {option.default_of('sweep')} | {meaning.replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def make_help() -> str:
    """Return the text of `make help`: a sweep's options with their meanings, and the option names of other verbs."""
    lines = ["variables of `make sweep` (defaults are in sweeps/*.yaml):"]
    for option in options_of("sweep"):
        text = _plain(option.meaning, option.default_of("sweep"))
        lines += textwrap.wrap(text, _WIDTH, initial_indent=f"  {option.name:<18}", subsequent_indent=" " * 20,
                               break_long_words=False, break_on_hyphens=False)  # fmt: skip
    lines += ["", "variables of the launcher's other verbs (sweep folders may be s3://…):"]
    for verb in VERBS[1:]:
        names = "; ".join([_OPERANDS.get(verb, "SWEEP=<sweep folder>"), *(one.name for one in options_of(verb))])
        lines += textwrap.wrap(names, _WIDTH, initial_indent=f"  {verb:<18}", subsequent_indent=" " * 20)
    return "\n".join(f"#> {line}".rstrip() for line in lines)


def _plain(meaning: str, default: str) -> str:
    return f"{meaning}; default: {default}".replace("`", "") if default else meaning.replace("`", "")


def between(text: str, marks: tuple[str, str], new: str, source: Path) -> str:
    """Return the text with the part between two marker lines replaced.

    Args:
      text: the whole text.
      marks: the first and the last marker line; both stay.
      new: what to put between them.
      source: the file that the text is from, for the error message.

    Raises:
      SweepError: a marker line is missing.
    """
    for mark in marks:
        if mark not in text:
            raise SweepError(f"{source}: the line {mark} is missing; put it back")
    before, rest = text.split(marks[0])
    return f"{before}{marks[0]}\n{new}\n{marks[1]}{rest.split(marks[1])[1]}"


def written() -> dict[Path, str]:
    """Return the expected content of each file that holds generated text."""
    return {
        DOCS: between(DOCS.read_text(encoding="utf-8"), DOCS_MARKS, f"\n{docs_table()}\n", DOCS),
        MAKEFILE: between(MAKEFILE.read_text(encoding="utf-8"), MAKE_MARKS, make_help(), MAKEFILE),
    }


if __name__ == "__main__":
    for file, content in written().items():
        file.write_text(content, encoding="utf-8")
    sys.exit(0)
