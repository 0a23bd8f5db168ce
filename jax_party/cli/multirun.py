"""Several experiments on one command line: `python -m jax_party.run -m --config-name ff_ippo,mat system.seed=1,2,3`.

Hydra makes the jobs and its launcher runs them. On disk they are a sweep: every job's trial folder and `sweep.yaml`
exist before the first one starts.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jax_party.cli.console import RunConsole
from jax_party.cli.single import make_folder, new_record, plain_config, quiet_libraries, resume_experiment
from jax_party.engines import ENGINE_KEY, NATIVE, ConfigTree, Outline, engine_of, get_engine
from jax_party.errors import ConfigError
from jax_party.judging.objectives import Objective
from jax_party.judging.seeds import FIRST_FRESH_SEED
from jax_party.trial.folder import create_trial_folder, read_record, update_record
from jax_party.trial.identity import label_of, new_trial_id
from jax_party.trial.manifest import SweepManifest, write_manifest
from jax_party.trial.outcome import score_in
from jax_party.trial.provenance import current_provenance, utc_timestamp
from jax_party.trial.record import RECORD_FILE, TrialRecord
from jax_party.trial.states import FINISHED, State

ALL_FAILED = 1
STOPPED = 130


@dataclass(frozen=True)
class CommandLine:
    """What a command line asks Hydra for.

    Attributes:
      options: the words that are not overrides.
      config_names: one name, or several separated by commas.
      overrides: the user's overrides, without the engine.
      engine: the name of the engine.
      tree: the engine's configs.
      several: whether it asks for several runs (`-m`).
      runs: whether it asks for runs at all, rather than for help or the composed config.
    """

    options: tuple[str, ...]
    config_names: tuple[str, ...]
    overrides: tuple[str, ...]
    engine: str
    tree: ConfigTree
    several: bool
    runs: bool

    @classmethod
    def read(cls, words: Sequence[str], default: str) -> CommandLine:
        """Read the command line.

        Args:
          words: the arguments without the program's name.
          default: the config if none is named.

        Raises:
          ConfigError: several configs without `-m`, one of them twice or without a name, configs from elsewhere, or an
            engine that is not available or lacks one of them.
        """
        arguments = _hydra_parser().parse_intermixed_args(list(words))
        names = tuple((arguments.config_name or default).split(","))
        given = tuple(arguments.overrides)
        engine, overrides = _without_engine(given)
        several = arguments.multirun or "hydra.mode=MULTIRUN" in overrides
        asked = ",".join(names)
        if len(names) > 1 and not several:
            raise ConfigError(f"--config-name {asked}: several configs are several runs; add -m")
        for place, name in enumerate(names):
            if not name or name in names[:place]:
                what = f"{name} is listed twice" if name else "a name is empty"
                raise ConfigError(f"--config-name {asked}: {what}; name each config once")
        if several and (arguments.config_dir or arguments.config_path):
            raise ConfigError(
                "--config-dir, --config-path: runs of -m are planned from mava_configs alone; leave them out"
            )
        others = (arguments.help, arguments.hydra_help, arguments.cfg, arguments.info, arguments.shell_completion)
        tree = _tree(engine, names)
        return cls(_options(words, given), names, overrides, engine, tree, several, runs=not any(others))

    def for_config(self, name: str, *overrides: str) -> list[str]:
        """Return the same command line for one of its configs, with further overrides.

        Overrides come last: Hydra accepts them only next to each other.
        """
        words = [f"--config-name={name}"]
        skip = False
        for word in self.options:
            if skip:
                skip = False
            elif word in ("--config-name", "-cn"):
                skip = True
            elif not word.startswith("--config-name="):
                words.append(word)
        return [*words, *self.tree.words(name, self.overrides), *overrides]


@dataclass(frozen=True)
class Job:
    """One run: its composed config with its outline, and the values that the command line varies."""

    mapping: Mapping[str, Any]
    outline: Outline
    hyperparameters: Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """All runs of a command line.

    Attributes:
      engine: the name of the engine that runs them.
      space: the values that the command line varies, as the axes of a grid.
      overrides: the values that it fixes.
    """

    config_names: tuple[str, ...]
    engine: str
    jobs: tuple[Job, ...]
    space: Mapping[str, Any]
    overrides: Mapping[str, Any]

    @classmethod
    def make(cls, asked: CommandLine) -> Plan:
        """Compose every run.

        Raises:
          ConfigError: the trainer would refuse a run.
          HydraException, OmegaConfBaseException: Hydra refuses a run.
        """
        from hydra import compose, initialize_config_dir
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
        from hydra.core.global_hydra import GlobalHydra
        from hydra.core.override_parser.overrides_parser import OverridesParser

        jobs = []
        with initialize_config_dir(asked.tree.folder, version_base="1.3"):
            parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
            overrides = parser.parse_overrides(list(asked.overrides))
            space: dict[str, Any] = {}
            for override in overrides:
                if override.is_sweep_override() and override.is_discrete_sweep():
                    texts = [f"{override.key_or_group}={text}" for text in override.sweep_string_iterator()]
                    values = [one.value() for one in parser.parse_overrides(texts)]
                    space[override.key_or_group] = {"type": "grid", "values": values}
            fixed = {item.key_or_group: item.value() for item in overrides if not item.is_sweep_override()}
            if fixed.get("hydra/sweeper", "basic") != "basic":
                raise ConfigError(
                    f"hydra/sweeper={fixed['hydra/sweeper']}: runs are planned before the first one starts; for a "
                    "search use python -m launcher.sweep SEARCH=optuna"
                )
            (batch,) = BasicSweeper.split_arguments(overrides, None)
            for name in asked.config_names:
                for words in batch:
                    mapping = plain_config(compose(name, asked.tree.words(name, words)))
                    given = {item.key_or_group: item.value() for item in parser.parse_overrides(list(words))}
                    jobs.append(Job(mapping, _outline_of(mapping), {key: given[key] for key in space}))
        _refuse_several_folders(jobs)
        _refuse_fresh_seeds(jobs)
        ours = {
            f"+{item.key_or_group}" if item.is_add() else item.key_or_group: item.value()
            for item in overrides
            if not item.is_sweep_override() and not item.key_or_group.startswith(("hydra/", "hydra."))
        }
        return cls(asked.config_names, asked.engine, tuple(jobs), space, ours)

    @property
    def label(self) -> str:
        """The label that the folder is named after."""
        return label_of(tuple(dict.fromkeys(job.outline.system for job in self.jobs)))

    def write(self) -> tuple[str, Path]:
        """Create the sweep's folder with every trial's folder in it, PENDING; the manifest is written last.

        Returns:
          The sweep's name and its folder.

        Raises:
          RecordError: the folder cannot be made.
        """
        first = self.jobs[0].outline
        folder = make_folder(first, self.label)
        name = "-".join((self.label, folder.parts[-2].replace("-", ""), folder.parts[-1].replace("-", "", 2)))
        objective = Objective(first.eval_metric, "max", at=first.eval_at)
        trials = {job_id(name, job.mapping, job.outline): job for job in self.jobs}
        for number, (trial_id, job) in enumerate(trials.items()):
            record = dataclasses.replace(
                new_record(job.outline, self.engine, trial_id),
                number=number,
                sweep=name,
                hyperparameters=job.hyperparameters,
                objective=objective,
                total_steps=job.outline.budget.total_steps,
            )
            create_trial_folder(folder / trial_id, job.mapping, record)
        manifest = SweepManifest(
            name=name,
            engine=self.engine,
            algorithm=self.label,
            algorithms=self.config_names,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            num_trials=len(trials),
            objective=objective,
            seed=first.seed,
            num_seeds=first.num_seeds,
            search="grid",
            scheduler="fifo",
            space=self.space,
            overrides=self.overrides,
            provenance={
                **current_provenance(),
                "command": shlex.join(["python", "-m", "jax_party.run", *sys.argv[1:]]),
            },
        )
        write_manifest(folder, manifest)
        return name, folder


def run_jobs(asked: CommandLine) -> int:
    """Plan every run, let Hydra's launcher run them, and print the outcome.

    Returns:
      The exit code: 0, or 1 if every run has failed.

    Raises:
      ConfigError, RecordError: nothing has been started.
      HydraException, OmegaConfBaseException: Hydra refuses the command line.
    """
    plan = Plan.make(asked)
    name, folder = plan.write()
    console = RunConsole(plan.jobs[0].outline.use_console)
    console.say(f"{name}: {len(_trials(folder))} runs")
    console.say(f"folder: {folder}")
    given = sys.argv
    try:
        for config_name in asked.config_names:
            # The folder is for Hydra's own files only.
            place = folder / "hydra" / config_name
            words = asked.for_config(config_name, f"hydra.sweep.dir={_quoted(place)}", "hydra.sweep.subdir=.")
            sys.argv = [given[0], *words]
            _hydra_main(asked.tree, config_name, _job_of(name, folder))()
    except KeyboardInterrupt:
        console.error(f"Stopped. Finish it with: python -m launcher.sweep resume {folder}")
        return STOPPED
    finally:
        sys.argv = given
    return _report(folder, console)


def job_id(name: str, mapping: Mapping[str, Any], outline: Outline) -> str:
    """Return the id of a run of this config in the sweep of this name."""
    return new_trial_id(name, mapping, outline.seed)


def run_job(name: str, folder: Path, mapping: Mapping[str, Any]) -> float:
    """Run a planned trial; an error is stored in its record, and the other trials continue.

    Args:
      name: the sweep's name.
      folder: the sweep's folder.
      mapping: the composed config.

    Returns:
      The score that the trial is judged by, for Hydra's sweepers; NaN if it has failed.
    """
    trial = folder / job_id(name, mapping, _outline_of(mapping))
    try:
        resume_experiment(trial)
    except Exception as error:
        if not (trial / RECORD_FILE).exists():
            raise
        if read_record(trial).state not in FINISHED:
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            update_record(trial, state=State.FAILED, error=reason, ended_at=utc_timestamp())
        RunConsole(enabled=True).error(f"{trial.name}: {read_record(trial).error}")
    return score_in(trial)


def _job_of(name: str, folder: Path) -> Callable[[Any], float]:
    """Return the function that Hydra calls for each job, in this process or in a launcher's worker."""

    def job(composed: Any) -> float:
        quiet_libraries()
        return run_job(name, folder, plain_config(composed))

    return job


def _hydra_main(tree: ConfigTree, config_name: str, job: Callable[[Any], float]) -> Callable[[], None]:
    import hydra

    main: Callable[[], None] = hydra.main(config_path=tree.folder, config_name=config_name, version_base="1.3")(job)
    return main


def _outline_of(mapping: Mapping[str, Any]) -> Outline:
    engine = engine_of(mapping)
    return engine.outline(engine.parse(mapping))


def _without_engine(overrides: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Return the requested engine, and the other overrides."""
    named = [word.partition("=")[2] for word in overrides if word.startswith(f"{ENGINE_KEY}=")]
    others = tuple(word for word in overrides if not word.startswith(f"{ENGINE_KEY}="))
    return (named or [NATIVE])[-1], others


def _tree(engine: str, config_names: Sequence[str]) -> ConfigTree:
    """Return the configs of an engine after checking that it can run these systems."""
    chosen = get_engine(engine)
    chosen.check()
    for name in config_names:
        chosen.check_algorithm(name)
    return chosen.tree()


def _hydra_parser() -> argparse.ArgumentParser:
    from hydra._internal.utils import get_args_parser

    parser: argparse.ArgumentParser = get_args_parser()
    return parser


def _options(words: Sequence[str], overrides: Sequence[str]) -> tuple[str, ...]:
    """Return the command line without its overrides."""
    left, options = list(overrides), []
    for word in words:
        if left and word == left[0]:
            left.pop(0)
        else:
            options.append(word)
    return tuple(options)


def _quoted(path: Path) -> str:
    """Return a path as a quoted string of Hydra's override grammar."""
    return "'" + str(path).replace("'", "\\'") + "'"


def _refuse_several_folders(jobs: Sequence[Job]) -> None:
    for key in ("base_exp_path", "run_name"):
        values = dict.fromkeys(getattr(job.outline, key) for job in jobs)
        if len(values) > 1:
            raise ConfigError(
                f"logger.{key}: {', '.join(map(str, values))}: runs of one command line lie in one folder; give one"
            )


def _refuse_fresh_seeds(jobs: Sequence[Job]) -> None:
    for outline in (job.outline for job in jobs):
        if outline.seed + outline.num_seeds > FIRST_FRESH_SEED:
            raise ConfigError(
                f"system.seed: {outline.seed}: seeds from {FIRST_FRESH_SEED:,} on are kept for testing winners "
                "(make promote); take seeds below"
            )


def _trials(folder: Path) -> list[TrialRecord]:
    found = [read_record(path.parent) for path in folder.glob(f"*/{RECORD_FILE}")]
    return sorted(found, key=lambda record: record.number)


def _report(folder: Path, console: RunConsole) -> int:
    """Print how many runs ended in each state; return the exit code."""
    states = [record.state for record in _trials(folder)]
    counts = ", ".join(f"{states.count(state)} {state.value}" for state in State if state in states)
    console.say(f"{counts}: {folder}")
    console.say(f"tables: python -m results.collect {folder}")
    return ALL_FAILED if all(state is State.FAILED for state in states) else 0
