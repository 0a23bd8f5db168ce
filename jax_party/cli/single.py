"""Run one experiment in the terminal: from its composed config, or from the state of its folder."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from jax_party.cli.console import RunConsole
from jax_party.engines import Engine, Outline, engine_of, get_engine
from jax_party.errors import RecordError
from jax_party.judging.objectives import Objective
from jax_party.runtime import prepare_process
from jax_party.store.storage import lock_folder
from jax_party.trial.folder import create_trial_folder, read_config, read_record, update_record
from jax_party.trial.identity import new_trial_id
from jax_party.trial.record import TrialRecord
from jax_party.trial.states import State


def run_experiment(mapping: Mapping[str, Any]) -> Path:
    """Run one experiment from its composed config, in a new folder; return the folder.

    Raises:
      JaxPartyError: the config is refused, the folder cannot be made, or training diverged.
    """
    engine = engine_of(mapping)
    engine.check()
    config = engine.parse(mapping)
    outline = engine.outline(config)
    folder = make_folder(outline, outline.system)
    name = "-".join((outline.system, *folder.parts[-2:]))
    record = new_record(outline, engine.name, new_trial_id(name, mapping, outline.seed))
    create_trial_folder(folder, mapping, record)
    return _play(engine, config, outline, record, folder)


def resume_experiment(folder: Path) -> Path:
    """Run the experiment in a trial folder from its present state to its end; return the folder.

    Raises:
      JaxPartyError: the folder cannot be resumed, or training diverged.
    """
    mapping, record = read_config(folder), read_record(folder)
    engine = get_engine(record.engine)
    engine.check()
    config = engine.parse(mapping)
    if record.state == State.FAILED:
        raise RecordError(f"{folder}: the run failed ({record.error}); start a new one with other settings")
    return _play(engine, config, engine.outline(config), record, folder)


def _play(engine: Engine, config: Any, outline: Outline, record: TrialRecord, folder: Path) -> Path:
    """Train in a trial's folder until the experiment has ended, and show how it goes."""
    console = RunConsole(outline.use_console)
    console.header(outline, record, str(folder))
    prepare_process(cpu_devices=outline.num_devices)
    with lock_folder(folder):
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


def new_record(outline: Outline, engine: str, trial_id: str, **more: Any) -> TrialRecord:
    """Return the PENDING record of a trial that a command line asks for; `more` are further fields."""
    return TrialRecord(
        trial_id=trial_id,
        engine=engine,
        algorithm=outline.system,
        environment=outline.environment,
        scenario=outline.scenario,
        seed=outline.seed,
        num_seeds=outline.num_seeds,
        objective=Objective(outline.eval_metric, "max", at=outline.eval_at),
        **more,
    )


@contextmanager
def _stopped_by_hand(console: RunConsole, folder: Path) -> Iterator[None]:
    """Handle Ctrl-C: set the record to PENDING, print how to continue, and exit with 130."""
    try:
        yield
    except KeyboardInterrupt:
        update_record(folder, state=State.PENDING)
        console.error(f"Stopped. Go on with: python -m jax_party.run --resume {folder}")
        sys.exit(130)


def make_folder(outline: Outline, label: str) -> Path:
    """Create `<base_exp_path>/<label>/<date>/<time>[-<name>]`; a second run in the same second gets `-2`.

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
                f"logger.base_exp_path: {folder}: cannot be created ({error.strerror}); choose another"
            ) from None


def plain_config(composed: Any) -> dict[str, Any]:
    """Return a config composed by Hydra as dictionaries, lists and scalars, with interpolations resolved."""
    from omegaconf import OmegaConf

    container = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def quiet_libraries() -> None:
    """Silence absl's INFO messages: Orbax logs each save through it."""
    logging.getLogger("absl").setLevel(logging.WARNING)
