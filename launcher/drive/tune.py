"""Run one pass of a sweep in Tune and wait for it."""

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
from launcher.ask.experiment_factory import chosen_experiment
from launcher.drive.passes import Pass
from launcher.drive.spending import Spending
from launcher.machine.crew import Crew
from launcher.machine.join import our_versions
from launcher.plan.sweep import Sweep
from launcher.ray_compat import hide_environment
from launcher.work.failed_attempts import MAX_FAILURES
from launcher.work.watchdog import Watchdog

STORING_S = 60
KEPT_LEARNERS = 3
"""Checkpoints kept per trial of a population: other trials may still take over the latest ones."""


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
    """Run a pass in Tune and wait for it.

    Args:
      sweep, part: the sweep, and the pass of it.
      crew: the workers that run it.
      callback: the driver's callback; it receives the shared workers and the nodes.
      others: additional callbacks.
      spending: the budget; once it is spent, each trial stops after its period.
      allowed: the maximum number of trials, None for no limit.
      nodes: the cluster's nodes (`Nodes`), None on this machine.
    """
    from ray import tune

    from launcher.drive.tune_controller import install_controller
    from launcher.drive.workers import SHARE
    from launcher.search.given_trials import InOrder
    from launcher.work.trainable import ExperimentTrainable

    install_controller()
    _keep_environment(sweep)
    worker, by_group = _worker_settings(sweep, crew), Scheduler(sweep.manifest.scheduler).by_group
    shared = _share_workers(worker, crew, by_group, nodes)
    callback.shared, callback.nodes = shared, nodes
    most = (shared.places_now if shared else _as_ray_has_room) if crew.follows else None
    config = _shared_config(sweep, part, worker, shared)
    search, number = _choose_trials(part, by_group, allowed, config, most)
    tune.run(
        ExperimentTrainable,
        name="tune",
        **_tune_storage(sweep.folder),
        config=config,
        # A scheduler that judges trials together, and a searcher, must see all trials; otherwise create them as needed.
        max_concurrent_trials=None if by_group or part.suggested is not None or most is not None else crew.trials,
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
        _remote=False,  # with ray:// Tune would otherwise move its driver to the cluster
    )
    if shared:
        shared.stop()


def _share_workers(worker: dict[str, Any], crew: Crew, by_group: bool, nodes: Any) -> Any:
    """Return the workers that trials share, None if each trial has its own."""
    from launcher.drive.workers import SharedWorkers

    if not crew.shared:
        return None
    room = crew.pack if by_group else crew.trials
    return SharedWorkers(worker, crew, room, Watchdog(crew.period_timeout_s).silent_s(), nodes)


def _shared_config(sweep: Sweep, part: Pass, worker: dict[str, Any], shared: Any) -> dict[str, Any]:
    """Return the part of Tune's config that all trials share."""
    return {
        "sweep": str(sweep.folder),
        "metric": sweep.manifest.objective.metric,
        "workers": shared.prefix if shared else None,
        "worker": worker,
        "failed": False,
        "population": part.values is not None,
    }


def _keep_environment(sweep: Sweep) -> None:
    """Make Tune wait for workers that are still storing, and stop it from passing environment variables on to workers.

    On a cluster it holds back AWS's variables, on our own Ray all of them.
    """
    if (
        store_of(sweep.folder).on_disk(sweep.folder) is None
    ):  # a worker that is told to stop may still be storing a trial's last period
        os.environ["TUNE_FORCE_TRIAL_CLEANUP_S"] = str(round(patience_s()) + STORING_S)

    # Tune would put AWS's secrets where Ray shows them; each node has its own. Workers of our own Ray inherit our whole
    # environment, and an actor that sets variables of its own could not use a process that Ray has already started.
    hide_environment(lambda name: "AWS_" in name, everything=sweep.address is None)


def _worker_settings(sweep: Sweep, crew: Crew) -> dict[str, Any]:
    """Return the settings that `make_pack` creates a worker from."""
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
    """Return no limit; each trial needs a worker's resources, so Tune keeps at most one trial waiting for them."""
    return sys.maxsize


def _choose_trials(
    part: Pass, by_group: bool, allowed: int | None, config: dict[str, Any], most: Callable[[], int] | None
) -> tuple[Any, int]:
    """Return the search algorithm for Tune (None for its grid) and the number of samples.

    Args:
      part: the pass.
      by_group: whether the scheduler judges all trials together.
      allowed: how many trials may still run, None for all.
      config: the config of Tune's trials; what varies between trials is added to it.
      most: returns how many trials may run now, if the crew follows a cluster; else None.
    """
    from ray import tune

    from launcher.search.given_trials import GivenTrials

    if part.suggested is not None:
        part.suggested.most = most or part.suggested.most
        left = part.suggested.remaining
        return part.suggested, left if allowed is None else min(left, allowed)
    ids = list(part.ids)[:allowed]
    if not by_group:
        planned = GivenTrials(ids, most)
        return planned, planned.remaining
    config["trial_id"] = tune.grid_search(ids)
    if part.values is not None:
        values = {trial_id: dict(part.values[trial_id]) for trial_id in ids}
        config["values"] = tune.sample_from(lambda drawn: values[drawn["trial_id"]])
    return None, 1


def _tune_storage(folder: Path) -> dict[str, Any]:
    """Return Tune's storage arguments: its own files, which workers also write, go beside the trials."""
    path, filesystem = store_of(folder).arrow(folder)
    return {"storage_path": path} | ({} if filesystem is None else {"storage_filesystem": filesystem})


def _our_id(trial: Any) -> str:
    return str(trial.config["trial_id"])
