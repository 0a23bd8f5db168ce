"""One experiment: `python -m jax_party.run --config-name ff_mappo env/scenario=p-no-rank system.actor_lr=3e-4`.

With `-m`, several of them (`jax_party.multirun`). A run that was stopped or killed goes on with
`python -m jax_party.run --resume <folder>`.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from jax_party import records
from jax_party.console import RunConsole
from jax_party.engines import NATIVE, Outline, engine_of, get_engine
from jax_party.errors import ConfigError, JaxPartyError, RecordError
from jax_party.hydra_errors import explain_hydra_error
from jax_party.runtime import prepare_process


def run_experiment(mapping: Mapping[str, Any]) -> Path:
    """Run one experiment from its composed config, in a new folder; returns the folder.

    Raises:
      JaxPartyError: the config is refused, the folder cannot be made, or training diverged.
    """
    engine = engine_of(mapping)
    outline = engine.outline(engine.parse(mapping))
    folder = make_folder(outline, outline.system)
    name = "-".join((outline.system, *folder.parts[-2:]))
    record = new_record(outline, engine.name, records.trial_id(name, mapping, outline.seed))
    records.create_trial_folder(folder, mapping, record)
    return resume_experiment(folder)


def resume_experiment(folder: Path) -> Path:
    """Run the experiment in a trial folder from where it stands to its end; returns the folder.

    Raises:
      JaxPartyError: the folder cannot be taken up, or training diverged.
    """
    mapping, record = records.read_config(folder), records.read_record(folder)
    engine = get_engine(record.engine)
    engine.check()
    config = engine.parse(mapping)
    outline = engine.outline(config)
    _refuse_failed(folder)
    console = RunConsole(outline.use_console)
    console.header(outline, record, str(folder))
    prepare_process(cpu_devices=outline.num_devices)
    with records.lock_folder(folder):
        experiment = engine.experiment()(config, folder)
        try:
            with _stopped_by_hand(console, folder), console.progress(outline.budget, experiment.evaluations) as update:
                result = experiment.step()
                update(result)
                while not experiment.finished:
                    result = experiment.step()
                    update(result)
        finally:
            experiment.close()
    console.results(experiment.record, result)
    return folder


def new_record(outline: Outline, engine: str, trial_id: str, **more: Any) -> records.TrialRecord:
    """The record, PENDING, of a trial that a command line asks for; `more` are further fields."""
    return records.TrialRecord(
        trial_id=trial_id,
        engine=engine,
        algorithm=outline.system,
        environment=outline.environment,
        scenario=outline.scenario,
        seed=outline.seed,
        num_seeds=outline.num_seeds,
        objective=records.Objective(outline.eval_metric, "max", at=outline.eval_at),
        **more,
    )


def _refuse_failed(folder: Path) -> None:
    record = records.read_record(folder)
    if record.state == records.State.FAILED:
        raise RecordError(f"{folder}: the run has failed ({record.error}); start a new one with other settings")


@contextmanager
def _stopped_by_hand(console: RunConsole, folder: Path) -> Iterator[None]:
    """On Ctrl-C, set the record to PENDING, say how to go on, and exit with 130."""
    try:
        yield
    except KeyboardInterrupt:
        records.update_record(folder, state=records.State.PENDING)
        console.error(f"Stopped. Go on with: python -m jax_party.run --resume {folder}")
        sys.exit(130)


def make_folder(outline: Outline, label: str) -> Path:
    """`<base_exp_path>/<label>/<date>/<time>[-<name>]`, made anew: a second run in the same second gets `-2`.

    Raises:
      RecordError: it cannot be made.
    """
    now = datetime.now()
    suffix = f"-{outline.run_name}" if outline.run_name else ""
    day = Path(outline.base_exp_path) / label / f"{now:%Y-%m-%d}"
    number = 1
    while True:
        folder = day / (f"{now:%H-%M-%S}{suffix}" + (f"-{number}" if number > 1 else ""))
        try:
            folder.mkdir(parents=True)
            return folder.absolute()
        except FileExistsError:
            number += 1
        except OSError as error:
            raise RecordError(
                f"logger.base_exp_path: {folder}: cannot be made ({error.strerror}); choose another"
            ) from None


def hydra_entry_point(config_name: str = "ff_ippo") -> None:
    """Run what the command line asks for, by Hydra: `--config-name`, overrides, `-m` for several runs.

    Args:
      config_name: used where the command line names none.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf import DictConfig
    from omegaconf.errors import OmegaConfBaseException

    from jax_party.multirun import CommandLine, run_jobs

    def job(composed: DictConfig) -> float:
        quiet_libraries()
        try:
            return records.score_in(run_experiment(plain_config(composed)))
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


def plain_config(composed: Any) -> dict[str, Any]:
    """What Hydra has composed as dictionaries, lists and scalars, interpolations resolved."""
    from omegaconf import OmegaConf

    container = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def quiet_libraries() -> None:
    """Orbax logs each save at INFO through absl."""
    logging.getLogger("absl").setLevel(logging.WARNING)


def _report(error: JaxPartyError) -> int:
    """Show an error as one line; returns the exit code."""
    RunConsole(enabled=True).error(f"{type(error).__name__}: {error}")
    return 2


def main() -> int:
    """The command line; returns the exit code."""
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
