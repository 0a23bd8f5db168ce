"""`--help` and `list-algorithms`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

import mava_configs
from launcher.ask.options import (
    CLAIM_HELP,
    EXTEND_HELP,
    HELP,
    PROMOTE_HELP,
    RERUN_HELP,
    RESUME_HELP,
    VERDICT_HELP,
)
from launcher.show.console import plain

if TYPE_CHECKING:  # it imports Ray, which bad input need not wait for
    pass

USAGE = """python -m launcher.sweep ALG=mappo [KEY=VALUE ...]     run a sweep
python -m launcher.sweep resume <folder> [KEY=VALUE ...]  finish a sweep that was stopped or killed
python -m launcher.sweep extend <folder> SAMPLES=8 ...    add configurations to a sweep
python -m launcher.sweep promote <folder> [KEY=VALUE ...] play the best configurations again on fresh seeds
python -m launcher.sweep claim CLAIM=... ALG=... ...      plan a sweep, and claim what it will show before it runs
python -m launcher.sweep verdict <folder> [KEY=VALUE ...] test what was claimed on seeds that no search has seen
python -m launcher.sweep rerun <trial> [OUT=...]          repeat a trial and compare every number
python -m launcher.sweep list-algorithms                  the algorithms and their aliases"""


def show_help(console: Console) -> int:
    plain(console, USAGE)
    width = max(map(len, (*HELP, *RESUME_HELP, *EXTEND_HELP, *PROMOTE_HELP)))
    commands = {
        "a sweep": HELP,
        "resume": RESUME_HELP,
        "extend": EXTEND_HELP,
        "promote": PROMOTE_HELP,
        "claim": CLAIM_HELP,
        "verdict": VERDICT_HELP,
        "rerun": RERUN_HELP,
    }
    for title, options in ((f"Options of {name}:", options) for name, options in commands.items()):
        plain(console, f"\n{title}")
        for key, meaning in options.items():
            plain(console, f"  {key:<{width}}  {meaning}")
    return 0


def list_algorithms(console: Console) -> int:
    aliases = {algorithm: alias for alias, algorithm in mava_configs.ALIASES.items()}
    for algorithm in mava_configs.ALGORITHMS:
        plain(console, f"{algorithm} ({aliases[algorithm]})" if algorithm in aliases else algorithm)
    return 0
