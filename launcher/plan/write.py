"""Write a plan: the sweep's folder, its sweep.yaml, and one folder per trial."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

from jax_party.errors import ConfigError, StorageError, SweepError
from jax_party.store.storage import as_folder, store_of
from jax_party.trial.manifest import SweepManifest, write_manifest
from jax_party.trial.provenance import current_provenance
from launcher.ask.choices import Search
from launcher.ask.quantities import parse_budget
from launcher.ask.requested import SweepOptions
from launcher.plan.read import study_from_manifest
from launcher.plan.study import SCENARIO_AXIS, SCENARIO_KEY, PlannedTrial, Study
from sweeps.space import (
    ScenarioMode,
)

WRITERS = 8


def draw_plan(study: Study, samples: int) -> tuple[PlannedTrial, ...]:
    """Draw the whole plan: `samples` configurations, each for every algorithm in every scenario.

    With the scenario as an axis, each configuration is only for the scenario that it was drawn with. Repeated
    configurations are redrawn; if the space has too few, the plan is shorter. Configurations that differ only in axes
    that do not exist for an algorithm or scenario give a single trial there.
    """
    from launcher.plan.axes import draw_configurations

    by_axis = study.spec.scenario_mode is ScenarioMode.AXIS
    axes = [*([study.scenario_axis] if by_axis else []), *study.axes]
    configurations = draw_configurations(axes, samples, study.seed)
    different: dict[str, PlannedTrial] = {}
    for drawn in configurations:
        for base in study.bases:
            if by_axis and base.scenario != drawn[SCENARIO_AXIS]:
                continue
            values = {axis.key: drawn[axis.name] for axis in study.axes_of(base)}
            trial = study.trial(len(different), base, values)
            different.setdefault(trial.trial_id, trial)
    return tuple(different.values())


def check_plan(study: Study, trials: Sequence[PlannedTrial]) -> None:
    """Refuse a plan with a trial that the trainer refuses.

    Checking the ends of each range is not enough, because values between them may be invalid.

    Raises:
      SweepError: a trial is refused; the message names its values.
    """
    for trial in trials:
        try:
            study.engine.parse(trial.config())
        except ConfigError as error:
            values = ", ".join(f"{key}={value}" for key, value in trial.hyperparameters.items())
            reason = str(error).splitlines()[0]
            raise SweepError(
                f"{study.spec.source}: trial {trial.number} ({values}) cannot be run: {reason}; list the values "
                "that can be, as type: choice"
            ) from error


def create_sweep_folder(options: SweepOptions, algorithm: str, now: datetime | None = None) -> tuple[str, Path]:
    """Create a new folder for the sweep, and return the sweep's name and the folder.

    Raises:
      SweepError: the folder cannot be created.
    """
    moment = now or datetime.now()
    place = f"STORAGE: {options.storage}" if options.storage else f"OUT: {options.out}"
    for attempt in range(60):
        name, folder = sweep_name_and_folder(options, algorithm, moment + timedelta(seconds=attempt))
        try:
            if store_of(folder).make_new_folder(folder):
                return name, folder
        except StorageError as error:
            raise SweepError(f"STORAGE: {error}") from error
        except OSError as error:
            raise SweepError(f"{place}: cannot make a folder there: {error.strerror}") from error
    raise SweepError(f"{place}: sixty sweeps began there within a minute; choose another NAME")


def _absolute(folder: str | Path) -> Path:
    place = as_folder(folder)
    return store_of(place).absolute(place)


def sweep_name_and_folder(options: SweepOptions, algorithm: str, moment: datetime) -> tuple[str, Path]:
    """Return the name and folder, such as `ff_mappo-20260102-030405-x` and `<out>/ff_mappo/2026-01-02/03-04-05-x`."""
    suffix = f"-{options.name}" if options.name else ""
    name = f"{algorithm}-{moment:%Y%m%d-%H%M%S}{suffix}"
    return name, store_of(options.root).absolute(
        options.root
    ) / algorithm / f"{moment:%Y-%m-%d}" / f"{moment:%H-%M-%S}{suffix}"


def write_plan(
    folder: Path,
    study: Study,
    trials: Sequence[PlannedTrial],
    num_trials: int,
    options: SweepOptions,
    command: str,
    samples: int | None = None,
) -> None:
    """Write sweep.yaml, then every planned trial's folder; `samples` is the number of configurations asked for."""
    scenarios = {SCENARIO_KEY: list(study.spec.scenarios)} if study.spec.scenarios else {}
    manifest = SweepManifest(
        name=study.name,
        engine=study.engine.name,
        algorithm=study.label,
        algorithms=study.algorithms,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        num_trials=num_trials,
        samples=samples,
        objective=study.objective,
        seed=study.seed,
        num_seeds=study.num_seeds,
        pack=options.pack,
        gpus_per_trial=options.gpus_per_trial,
        budget=parse_budget(options.budget) if options.budget else {},
        search=study.search.value,
        sampler=None if study.sampler is None else study.sampler.value,
        scheduler=study.scheduler.value,
        scenario_mode=study.spec.scenario_mode.value,
        warm_start=tuple(str(_absolute(folder)) for folder in study.warm_start),
        duplicates=study.duplicates.value,
        space=study.spec.space(),
        overrides={**scenarios, **study.spec.overrides},
        provenance={**current_provenance(), "command": command},
    )
    write_manifest(folder, manifest)
    _write_trials(folder, study, trials)


def complete_plan(folder: Path, manifest: SweepManifest) -> None:
    """Write the trials that are missing because a driver was killed while it wrote its plan.

    The plan is redrawn from its seed; a longer draw starts with the shorter one.
    """
    study = study_from_manifest(folder, manifest)
    samples = manifest.samples or (1 if study.search is Search.GRID else manifest.num_trials)
    _write_trials(folder, study, draw_plan(study, samples)[: manifest.num_trials])


def _write_trials(folder: Path, study: Study, trials: Sequence[PlannedTrial]) -> None:
    """Create the trials' folders, several at a time, because most of the time is spent waiting for the disk."""
    with ThreadPoolExecutor(WRITERS) as pool:
        for _ in pool.map(lambda trial: study.write(folder, trial), trials):
            pass
