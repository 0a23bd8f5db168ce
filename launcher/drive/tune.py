"""Hand one part of a sweep to Tune, and wait."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jax_party.store.retry import patience_s
from jax_party.store.storage import store_of
from jax_party.trial.provenance import current_provenance
from launcher.ask.choices import Scheduler
from launcher.ask.experiment import chosen_experiment
from launcher.drive.passes import Pass
from launcher.drive.spending import Spending
from launcher.machine.crew import Crew
from launcher.machine.join import our_versions
from launcher.plan.sweep import Sweep
from launcher.ray_compat import hide_environment
from launcher.work.watchdog import Watchdog

MAX_FAILURES = 2
STORING_S = 60
KEPT_LEARNERS = 3
"""Of each trial of a population: as many as the others may still take over."""


def run_in_tune(
    sweep: Sweep,
    crew: Crew,
    part: Pass,
    callback: Any,
    others: Sequence[Any],
    spending: Spending,
    allowed: int | None,
    nodes: Any,
) -> None:
    """Hand trials to Tune, at most so many as are allowed, and wait; `others` are called besides `callback`."""
    from ray import tune

    from launcher.drive.controller import install_controller
    from launcher.drive.workers import SHARE, SharedWorkers
    from launcher.search.planned import InOrder
    from launcher.work.trainable import ExperimentTrainable

    install_controller()
    _keep_environment(sweep)
    worker = _worker_settings(sweep, crew)
    by_group = Scheduler(sweep.manifest.scheduler).by_group
    room, silent_s = crew.pack if by_group else crew.trials, Watchdog(crew.period_timeout_s).silent_s()
    shared = SharedWorkers(worker, crew, room, silent_s, nodes) if crew.shared else None
    callback.shared, callback.nodes = shared, nodes
    most = (shared.places_now if shared else _as_ray_has_room) if crew.follows else None
    config: dict[str, Any] = {
        "sweep": str(sweep.folder),
        "metric": sweep.manifest.objective.metric,
        "workers": shared.prefix if shared else None,
        "worker": worker,
        "failed": False,
        "population": part.values is not None,
    }
    search, number = _choose_trials(part, by_group, allowed, config, most)
    tune.run(
        ExperimentTrainable,
        name="tune",
        **_tune_storage(sweep.folder),
        config=config,
        # Whoever judges trials together, or draws them, must see them all; else Tune makes them as they are needed.
        max_concurrent_trials=None if by_group or part.planner is not None or most is not None else crew.trials,
        num_samples=number,
        stop=lambda trial_id, result: spending.reason is not None,
        search_alg=search,
        scheduler=part.scheduler or InOrder(),
        resources_per_trial={"cpu": 1 / SHARE} if shared else crew.needs.resources(crew.machine),
        checkpoint_config=tune.CheckpointConfig(num_to_keep=KEPT_LEARNERS if part.values is not None else None),
        max_failures=MAX_FAILURES,
        reuse_actors=True,
        callbacks=[callback, *others],
        verbose=0,
        raise_on_failed_trial=False,
        trial_dirname_creator=_our_id,
        trial_name_creator=_our_id,
        _remote=False,  # with ray:// Tune would move itself to the cluster
    )
    if shared:
        shared.stop()


def _keep_environment(sweep: Sweep) -> None:
    """Have Tune wait for workers that store, and give them nothing of our environment that they have not got, or must
    not be shown.
    """
    if (
        store_of(sweep.folder).on_disk(sweep.folder) is None
    ):  # a worker that is let go of may still be storing a trial's last period
        os.environ["TUNE_FORCE_TRIAL_CLEANUP_S"] = str(round(patience_s()) + STORING_S)

    # Tune would put AWS's secrets where Ray shows them; each node has its own. Workers of our own Ray have all of our
    # environment, and one that asks for more of it could not be one that Ray has started already.
    hide_environment(lambda name: "AWS_" in name, everything=sweep.address is None)


def _worker_settings(sweep: Sweep, crew: Crew) -> dict[str, Any]:
    """What `make_pack` makes a worker with."""
    settings = {
        "sweep": str(sweep.folder),
        "size": crew.pack,
        "process": crew.settings(),
        "engine": sweep.manifest.engine,
        "experiment": chosen_experiment(),
        "period_timeout_s": crew.period_timeout_s,
    }
    if sweep.address is not None:
        here = current_provenance()
        settings |= {"versions": our_versions(), "code": [here["git_sha"], here["git_dirty"]]}
    return settings


def _as_ray_has_room() -> int:
    """Where each trial takes its worker's resources, Tune asks for no more than one that has to wait for them."""
    return sys.maxsize


def _choose_trials(
    part: Pass, by_group: bool, allowed: int | None, config: dict[str, Any], most: Callable[[], int] | None
) -> tuple[Any, int]:
    """Who gives Tune its trials, and how many samples that is; what varies between them goes into `config`.

    Args:
      part: the pass.
      by_group: whether its scheduler judges all of them together.
      allowed: how many may still be played, None for all.
      config: of Tune's trials.
      most: how many may run now, where that follows a cluster.
    """
    from ray import tune

    from launcher.search.planned import PlannedTrials

    if part.planner is not None:
        part.planner.most = most or part.planner.most
        left = part.planner.remaining
        return part.planner, left if allowed is None else min(left, allowed)
    ids = list(part.ids)[:allowed]
    if not by_group:
        planned = PlannedTrials(ids, most)
        return planned, planned.remaining
    config["trial_id"] = tune.grid_search(ids)
    if part.values is not None:
        values = {trial_id: dict(part.values[trial_id]) for trial_id in ids}
        config["values"] = tune.sample_from(lambda drawn: values[drawn["trial_id"]])
    return None, 1


def _tune_storage(folder: Path) -> dict[str, Any]:
    """Where Tune keeps its own files, which workers may write, too: beside the trials."""
    path, filesystem = store_of(folder).arrow(folder)
    return {"storage_path": path} | ({} if filesystem is None else {"storage_filesystem": filesystem})


def _our_id(trial: Any) -> str:
    return str(trial.config["trial_id"])
