"""One experiment: `python -m jax_party.run --config-name ff_mappo env/scenario=p-no-rank system.actor_lr=3e-4`.

With `-m`, several of them (`jax_party.cli.multirun`). To continue a run that was stopped or killed, use
`python -m jax_party.run --resume <folder>`.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from jax_party.cli.console import RunConsole
from jax_party.cli.hydra_errors import explain_hydra_error
from jax_party.cli.single import plain_config, quiet_libraries, resume_experiment, run_experiment
from jax_party.engines import NATIVE, get_engine
from jax_party.errors import ConfigError, JaxPartyError
from jax_party.trial.outcome import score_in


def hydra_entry_point(config_name: str = "ff_ippo") -> None:
    """Run what the command line asks for, with Hydra: `--config-name`, overrides, `-m` for several runs.

    Args:
      config_name: used if the command line names none.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf import DictConfig
    from omegaconf.errors import OmegaConfBaseException

    from jax_party.cli.multirun import CommandLine, run_jobs

    def job(composed: DictConfig) -> float:
        quiet_libraries()
        try:
            return score_in(run_experiment(plain_config(composed)))
        except JaxPartyError as error:
            sys.exit(_report(error))

    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    names: tuple[str, ...] = (config_name,)
    tree = get_engine(NATIVE).tree()
    try:
        asked = CommandLine.read(sys.argv[1:], config_name)
        names, tree = asked.config_names, asked.tree
        if asked.several and asked.runs:
            code = run_jobs(asked)
            if code:
                sys.exit(code)
        else:
            sys.argv[1:] = asked.for_config(names[0])
            hydra.main(config_path=tree.folder, config_name=config_name, version_base="1.3")(job)()
    except JaxPartyError as error:
        sys.exit(_report(error))
    except (HydraException, OmegaConfBaseException) as error:
        reason = explain_hydra_error(error, tree, sys.argv[1:], names[0])
        sys.exit(_report(ConfigError(reason)))


def _report(error: JaxPartyError) -> int:
    """Print an error as one line; return the exit code."""
    RunConsole(enabled=True).error(f"{type(error).__name__}: {error}")
    return 2


def main() -> int:
    """Run the command line; return the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    quiet_libraries()
    try:
        if sys.argv[1:2] == ["--resume"]:
            if len(sys.argv) != 3:
                raise JaxPartyError("--resume: name one run folder: python -m jax_party.run --resume <folder>")
            resume_experiment(Path(sys.argv[2]))
        else:
            hydra_entry_point()
    except JaxPartyError as error:
        return _report(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
