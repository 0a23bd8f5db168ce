"""The command line of sweeps and its verbs: `python -m launcher.sweep ALG=mappo SAMPLES=8 …`."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence

from rich.console import Console

from jax_party.errors import JaxPartyError
from jax_party.store.retry import patience_s, refusal
from launcher.ask.parsing import (
    parse_claim_options,
    parse_extend_options,
    parse_promote_options,
    parse_rerun_options,
    parse_resume_options,
    parse_sweep_options,
    parse_verdict_options,
)
from launcher.commands.extend import extend
from launcher.commands.help import list_algorithms, show_help
from launcher.commands.promote import promote
from launcher.commands.resume import resume
from launcher.commands.start import start
from launcher.commands.verdict import verdict
from launcher.machine.ray_session import prepare_driver
from launcher.show.console import plain

BAD_INPUT = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. Bad input prints one line on stderr and returns 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    console = Console()
    prepare_driver(joins=any(re.match("ADDRESS=.|DASHBOARD=1", word) for word in words))
    try:
        patience_s()  # reject a bad setting now, not during an outage
        if words and words[0] in ("-h", "--help", "help"):
            return show_help(console)
        if words[:1] == ["list-algorithms"]:
            return list_algorithms(console)
        if words[:1] == ["resume"]:
            return resume(parse_resume_options(words[1:]), console)
        if words[:1] == ["extend"]:
            return extend(parse_extend_options(words[1:]), console)
        if words[:1] == ["promote"]:
            return promote(parse_promote_options(words[1:]), console)
        if words[:1] == ["verdict"]:
            return verdict(parse_verdict_options(words[1:]), console)
        if words[:1] == ["rerun"]:
            from launcher.commands.rerun import rerun

            return rerun(parse_rerun_options(words[1:]), console)
        command = shlex.join(["python", "-m", "launcher.sweep", *words])
        if words[:1] == ["claim"]:
            options, text = parse_claim_options(words[1:])
            return start(options, command, console, text)
        return start(parse_sweep_options(words), command, console)
    except KeyboardInterrupt:
        plain(console, "Stopped before any trial began")
        return INTERRUPTED
    except JaxPartyError as error:
        plain(Console(stderr=True), f"{type(error).__name__}: {'; '.join(str(error).splitlines())}")
        return BAD_INPUT
    except OSError as error:
        if refusal(error) is None:
            raise
        plain(Console(stderr=True), f"StorageError: {error}; free space or fix it, then try again")
        return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
