"""What the verbs share: opening a sweep's folder, choosing its workers, and driving it as the only driver."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from jax_party.engines import Engine, get_engine
from jax_party.errors import RecordError, StorageError, SweepError
from jax_party.store.storage import lock_folder, store_of
from launcher.ask.choices import Scheduler
from launcher.ask.requested import PromoteOptions, ResumeOptions, SweepOptions
from launcher.drive.dashboards import check_watching
from launcher.machine.crew import Crew, Machine, find_machine
from launcher.machine.token import check_token
from launcher.plan.study import NUM_DEVICES_KEY

if TYPE_CHECKING:  # imports Ray, so it is imported only after the input has been checked
    from launcher.plan.sweep import Sweep


def read_sweep(folder: Path, options: SweepOptions | ResumeOptions | PromoteOptions) -> Sweep:
    """Read an existing sweep, after checking the watching options and the sweep's storage."""
    from launcher.plan.sweep import Sweep

    check_watching(options.watching, options.address)
    folder = store_of(folder).absolute(folder)
    check_sweep_storage(folder)
    return dataclasses.replace(Sweep.read(folder), address=options.address, watching=options.watching)


def check_sweep_storage(folder: Path, writing: bool = True) -> None:
    """Check that the sweep's storage answers and accepts a file.

    Args:
      folder: the sweep's folder, or the one that holds sweep folders.
      writing: write a test file; if False, only check that the folder could be created.

    Raises:
      SweepError: the storage does not answer, or cannot be written to.
    """
    store = store_of(folder)
    try:
        if writing:
            store.check(folder, writing=True)
        else:
            store.check_new(folder)
    except StorageError as error:
        where = "STORAGE: " if store.on_disk(folder) is None else ""
        raise SweepError(f"{where}{error}") from error


def find_workers_machine(address: str | None, folder: Path, shared: bool) -> Machine:
    """Return this machine, or the cluster at `address` after checking that its nodes can access the folder."""
    check_token()
    if address is None:
        return find_machine()
    from launcher.machine.join import find_cluster

    return find_cluster(address, folder, shared)


def check_pack(scheduler: Scheduler, crew: Crew, address: str | None, folder: Path, engine: Engine) -> None:
    """Refuse to share workers if the engine cannot, or if the scheduler pauses trials and their places would be lost.

    Raises:
      SweepError: trials cannot share workers; the message says what to do instead.
    """
    if crew.pack > 1 and not engine.side_by_side:
        raise SweepError(f"PACK={crew.pack}: ENGINE={engine.name} runs one trial per worker; leave PACK out")
    if not (crew.shared and scheduler.by_group):
        return
    if address is not None:
        raise SweepError(
            f"PACK={crew.pack}: with SCHEDULER={scheduler} trials pause and resume, and a cluster cannot "
            "reserve places in shared workers for them; leave PACK out"
        )
    if scheduler.is_population and store_of(folder).on_disk(folder) is None:
        raise SweepError(
            f"PACK={crew.pack}: with SCHEDULER={scheduler} and STORAGE={folder} learners move between workers, each of "
            "which has one trial; leave PACK out"
        )


def crew_for(sweep: Sweep, options: ResumeOptions | PromoteOptions) -> Crew:
    """Return the crew that the sweep started with, updated with the options given now."""
    manifest = sweep.manifest
    devices = (manifest.overrides or {}).get(NUM_DEVICES_KEY, 1)
    gpus = options.gpus_per_trial or manifest.gpus_per_trial
    machine = find_workers_machine(sweep.address, sweep.folder, shared=True)
    crew = Crew.of(machine, options.workers, options.pack or manifest.pack, devices, gpus)
    engine = get_engine(manifest.engine)
    engine.check()
    check_pack(Scheduler(manifest.scheduler), crew, sweep.address, sweep.folder, engine)
    return dataclasses.replace(crew, period_timeout_s=options.period_timeout)


def drive_alone(
    sweep: Sweep,
    crew: Crew,
    console: Console,
    budget: Mapping[str, float],
    prepare: Callable[[], None] = lambda: None,
) -> int:
    """Run a sweep while holding its folder's lock; `prepare` is called once the lock is held."""
    from launcher.drive.run import run_sweep

    try:
        with lock_folder(sweep.folder, timeout=0.0):
            prepare()
            return run_sweep(sweep, crew, console, budget)
    except RecordError as error:
        raise SweepError(str(error)) from error
