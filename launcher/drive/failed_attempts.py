"""Failed attempts of trials: whether the worker died, and the reason that is recorded with the retry.

`trial_events` records the failed attempt, and Tune retries the trial. `tune_controller` corrects Tune's count of
attempts. `stalled_workers` ends workers that no longer answer.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.exceptions import RayActorError, RayTaskError

MAX_REASON = 300


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
        return "the worker process died"
    if cause is None:
        return "for a reason that could not be read"
    lines = str(cause).strip().splitlines()
    text = (
        f"{type(cause).__name__}: {lines[-1] if isinstance(cause, RayTaskError) else lines[0]}"
        if lines
        else repr(cause)
    )
    return text[:MAX_REASON]
