"""Repeat a trial with the same config, seeds and batching in a separate folder, and compare the results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from jax_party.engines import NATIVE, get_engine
from jax_party.errors import SweepError, TrainingDiverged
from jax_party.judging.scores import EXTRA
from jax_party.store.storage import as_folder, lock_folder, store_of
from jax_party.trial.folder import create_trial_folder, read_config, read_record, update_record
from jax_party.trial.lookup import find_trials
from jax_party.trial.metrics import read_metrics
from jax_party.trial.provenance import current_provenance
from jax_party.trial.record import RECORD_FILE, TrialRecord
from jax_party.trial.states import FINISHED, State
from launcher.ask.requested import RerunOptions
from launcher.machine.crew import find_machine
from launcher.machine.worker_process import prepare_worker
from launcher.show.console import plain, show_facts
from sweeps.checks import did_you_mean

DIFFERS = 1


def rerun(options: RerunOptions, console: Console) -> int:
    """Repeat a trial and compare the results.

    Returns:
      The exit code: 0 if every number is the same, 1 otherwise.

    Raises:
      SweepError: the trial does not exist, has not ended, or continued from other trials of its population.
    """
    folder = find_trial(options.trial, options.out)
    record = read_record(folder)
    if record.state not in FINISHED:
        raise SweepError(f"TRIAL={options.trial}: it is {record.state.value}; only what has ended can be repeated")
    if record.lineage:
        sources = ", ".join(dict.fromkeys(takeover.source for takeover in record.lineage))
        raise SweepError(
            f"TRIAL={options.trial}: it went on from learners of others of its population ({sources}), and cannot be "
            "repeated alone; repeat the sweep: its command is in sweep.yaml"
        )
    machine = find_machine()
    engine = get_engine(record.engine)
    engine.check()
    outline = engine.outline(engine.parse(read_config(folder)))
    cores = prepare_worker(machine.cores, bool(machine.gpus), devices=outline.num_devices)
    again = create_rerun(folder, record, options.out)
    show_facts(console, f"Repeating {record.trial_id}", {"of": str(folder), "in": str(again)})
    for difference in differences(record):
        plain(console, f"  differs: {difference}; the numbers may differ, too")
    play(again, console)
    del cores
    reason = compare(folder, again)
    plain(console, reason or f"The same: {summary(folder)}, bit for bit")
    return DIFFERS if reason else 0


def find_trial(trial: str, out: Path) -> Path:
    """Return the folder of a trial, given its path or its id under `out`.

    Raises:
      SweepError: no trial or several trials match.
    """
    found = find_trials(trial, out)
    if len(found) == 1:
        return found[0]
    if found:
        raise SweepError(f"TRIAL={trial}: there are {len(found)} of that id; give the path of one: {found[0]}")
    path = as_folder(trial)
    if store_of(path).on_disk(path) is None:
        raise SweepError(f"TRIAL={trial}: there is no trial there")
    known = tuple(place.parent.name for place in out.glob(f"*/*/*/*/{RECORD_FILE}"))
    raise SweepError(f"TRIAL={trial}: no such trial under {out}{did_you_mean(path.name, known)}")


def create_rerun(folder: Path, record: TrialRecord, out: Path) -> Path:
    """Create the PENDING trial of the repetition in `<out>/<algorithm>/<date>/<time>-rerun`, and return its folder."""
    again = TrialRecord(
        trial_id=f"{record.trial_id}-rerun",
        engine=record.engine,
        algorithm=record.algorithm,
        environment=record.environment,
        scenario=record.scenario,
        seed=record.seed,
        num_seeds=record.num_seeds,
        hyperparameters=record.hyperparameters,
        objective=record.objective,
        batch=record.batch,
        total_steps=record.total_steps,
    )
    now, number = datetime.now(), 1
    while True:
        name = f"{now:%H-%M-%S}-rerun" + (f"-{number}" if number > 1 else "")
        place = out.absolute() / record.algorithm / f"{now:%Y-%m-%d}" / name
        try:
            place.mkdir(parents=True)
        except FileExistsError:
            number += 1
            continue
        except OSError as error:
            raise SweepError(f"OUT: {place}: cannot be made ({error.strerror}); choose another") from None
        create_trial_folder(place, read_config(folder), again)
        return place


def differences(record: TrialRecord) -> Iterator[str]:
    """Yield what has changed since the trial ran: versions, code, machine, batch width."""
    now = current_provenance()
    for package in dict.fromkeys([*record.versions, *now["versions"]]):
        then, here = record.versions.get(package), now["versions"].get(package)
        if then != here:
            yield f"{package} was {then or 'absent'}, is {here or 'absent'}"
    if record.git_sha != now["git_sha"]:
        yield f"the code was at commit {record.git_sha or 'unknown'}, is at {now['git_sha'] or 'unknown'}"
    elif record.git_dirty or now["git_dirty"]:
        when = " and ".join(word for word, dirty in (("then", record.git_dirty), ("now", now["git_dirty"])) if dirty)
        yield f"the code had changes that were not committed ({when})"
    version = get_engine(record.engine).version()
    if record.engine != NATIVE and record.engine_version != version:
        yield f"{record.engine} was {record.engine_version or 'unknown'}, is {version or 'unknown'}"
    if record.host != now["host"]:
        yield f"the machine was {record.host}, is {now['host']}"
    if record.batch == "vmap":
        yield "it went through a batched program, whose width (SEEDS × PACK) may have been different"


def play(folder: Path, console: Console) -> None:
    """Run the trial in `folder` to completion."""
    engine = get_engine(read_record(folder).engine)
    with lock_folder(folder):
        experiment = engine.experiment()(engine.parse(read_config(folder)), folder)
        try:
            while not experiment.finished:
                result = experiment.step()
                metric = experiment.record.objective.metric
                plain(console, f"  step {result['env_steps']:>12,}  {metric} {result[metric]:.6g}")
        except TrainingDiverged as error:
            plain(console, f"  {error}")
        except KeyboardInterrupt:
            update_record(folder, state=State.PENDING)
            raise SweepError(f"stopped; what there is of the repetition lies in {folder}") from None
        finally:
            experiment.close()


def compare(folder: Path, again: Path) -> str | None:
    """Return a sentence about the first number or final state that differs, or None if all are the same."""
    theirs, ours = ({_place(row): row for row in read_metrics(trial)} for trial in (folder, again))
    for place in dict.fromkeys([*theirs, *ours]):
        for name, then, now in _numbers(theirs.get(place, {}), ours.get(place, {})):
            if then != now:
                step, seed, *flags = place
                closing = [flag for flag, there in zip(EXTRA, flags, strict=True) if there]
                what = f"{closing[0]} episodes" if closing else f"evaluation at step {step:,}"
                return f"Differs: {what}, seed {seed}: {name} was {then}, is {now}"
    before, after = read_record(folder), read_record(again)
    if before.state is not State.PRUNED and (before.state, before.error) != (after.state, after.error):
        return f"Differs: it was {before.state.value} ({before.error}), is {after.state.value} ({after.error})"
    return None


def summary(folder: Path) -> str:
    """Describe what was compared."""
    rows = read_metrics(folder)
    evaluations = sum(not any(row.get(flag) for flag in EXTRA) for row in rows)
    closing = len(rows) - evaluations
    return f"{evaluations} evaluations with the losses before them, and {closing} lines of episodes at the end"


def _place(row: Mapping[str, Any]) -> tuple[int, ...]:
    return row["step"], row.get("seed", 0), *(bool(row.get(flag)) for flag in EXTRA)


def _numbers(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield (name, then, now) for every number of two rows except speeds.

    Rows that the original lacks yield nothing, because a pruned trial has fewer rows than its repetition.
    """
    if not then:
        return
    for part in ("evaluate", "episodes", "train"):
        before, after = then.get(part, {}), now.get(part, {})
        for name in dict.fromkeys([*before, *after]):
            if name != "steps_per_second":
                yield name, before.get(name), after.get(name)


__all__ = ["compare", "create_rerun", "differences", "find_trial", "play", "rerun", "summary"]
