"""Failed attempts of trials: how many a trial has, which of them count, and the reason recorded with a retry.

Who asks here: the driver when Tune reports a failure (`drive.trial_events`), Tune's controller when it counts attempts
(`drive.tune_controller`), and a trial that shares its worker, when that worker dies (`work.trainable`).
`trial_events` decides which reason wins if there are several. `drive.stalled_workers` ends workers that no longer
answer. The `attempts` of a record count how often a worker began the trial (`training.recorder`).
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.exceptions import RayActorError, RayTaskError

from jax_party.trial.record import TrialRecord
from jax_party.trial.states import State
from launcher.machine.join import NodeRefused

MAX_FAILURES = 2
"""Failed attempts after which a trial is tried once more; the next failure ends it."""
MAX_REASON = 300
WORKER_DIED = "the worker process died"


def counts(error: BaseException | None) -> bool:
    """Return whether a failed attempt counts towards `MAX_FAILURES`: a node's refusal is not the trial's fault."""
    return not isinstance(cause_of(error), NodeRefused)


def reason_left(record: TrialRecord, error: BaseException | None) -> str | None:
    """Return the reason that a process which ended itself has left in the trial's record; None if it left none."""
    return record.error if died(error) and record.state is State.RUNNING else None


def died(error: BaseException | None) -> bool:
    """Return whether the error means that the attempt's process is gone."""
    return isinstance(cause_of(error), RayActorError)


def cause_of(error: BaseException | None) -> BaseException | None:
    """Return the error that a worker raised, without Ray's wrapper; any other error as it is."""
    return error.cause if isinstance(error, RayTaskError) and error.cause is not None else error


def last_error(trial: Any) -> BaseException | None:
    """Return the error of a Tune trial's last attempt, from Tune's error file; None if it cannot be read."""
    try:
        error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    except (OSError, TypeError, AttributeError, ImportError, EOFError, pickle.UnpicklingError):
        return None
    return error if isinstance(error, BaseException) else None


def describe_failure(error: BaseException | None) -> str:
    """Describe in one line why an attempt failed."""
    cause = cause_of(error)
    if isinstance(cause, RayActorError):
        return WORKER_DIED
    if cause is None:
        return "for a reason that could not be read"
    lines = str(cause).strip().splitlines()
    text = (
        f"{type(cause).__name__}: {lines[-1] if isinstance(cause, RayTaskError) else lines[0]}"
        if lines
        else repr(cause)
    )
    return text[:MAX_REASON]
