"""`--help` and `list-algorithms`."""

from __future__ import annotations

from rich.console import Console

import mava_configs
from launcher.ask.tables import help_text
from launcher.show.console import plain

USAGE = """python -m launcher.sweep ALG=mappo [KEY=VALUE ...]     run a sweep
python -m launcher.sweep resume <folder> [KEY=VALUE ...]  finish a sweep that was stopped or killed
python -m launcher.sweep extend <folder> SAMPLES=8 ...    add configurations to a sweep
python -m launcher.sweep promote <folder> [KEY=VALUE ...] train the best configurations again on fresh seeds
python -m launcher.sweep claim CLAIM=... ALG=... ...      plan a sweep and register claims before it runs
python -m launcher.sweep verdict <folder> [KEY=VALUE ...] test a sweep's claims on fresh seeds
python -m launcher.sweep rerun <trial> [OUT=...]          repeat a trial and compare every number
python -m launcher.sweep list-algorithms                  list the algorithms and their aliases"""


def show_help(console: Console) -> int:
    """Print the verbs and all options; return 0."""
    plain(console, USAGE)
    for line in help_text():
        plain(console, line)
    return 0


def list_algorithms(console: Console) -> int:
    """Print each algorithm with its alias; return 0."""
    aliases = {algorithm: alias for alias, algorithm in mava_configs.ALIASES.items()}
    for algorithm in mava_configs.ALGORITHMS:
        plain(console, f"{algorithm} ({aliases[algorithm]})" if algorithm in aliases else algorithm)
    return 0
