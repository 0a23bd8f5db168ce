"""Prometheus gauges of a sweep's trials, exported by the driver through Ray's metrics port."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ray.tune import Callback
from ray.util.metrics import Gauge

from jax_party.judging.scores import is_number
from jax_party.trial.states import State
from launcher.show.progress import Progress

TAGS: Final = ("sweep", "trial", "algorithm", "scenario")
STATE_NUMBERS: Final[Mapping[State, int]] = {state: number for number, state in enumerate(State)}
"""Values of `jaxparty_trial_state`: 0 PENDING, 1 RUNNING, 2 COMPLETE, 3 FAILED, 4 PRUNED."""
_OF_RESULT: Final = ("episode_return", "cooperation_rate", "steps_per_second")


class GaugeCallback(Callback):
    """Sets each trial's gauges; must come after the callback that updates the progress."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        names = {name: f"the trial's {name.replace('_', ' ')}" for name in _OF_RESULT}
        self._gauges = {name: Gauge(f"jaxparty_{name}", text, TAGS) for name, text in names.items()}
        numbers = ", ".join(f"{number} {state}" for state, number in STATE_NUMBERS.items())
        self._state = Gauge("jaxparty_trial_state", numbers, TAGS)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Set the state of a trial that a worker has taken."""
        self._tell_state(trial)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any
    ) -> None:
        """Set the gauges to the results of an evaluation."""
        tags = self._tags(trial)
        for name, gauge in self._gauges.items():
            value = result.get(name)
            if is_number(value):
                gauge.set(float(value), tags)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Set the state of a trial that is retried."""
        self._tell_state(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Set the state of a trial whose last attempt failed."""
        self._tell_state(trial)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Set the state of a trial that has ended."""
        self._tell_state(trial)

    def _tell_state(self, trial: Any) -> None:
        row = self._progress.row(trial.config["trial_id"])
        self._state.set(STATE_NUMBERS[row.state], self._tags(trial))

    def _tags(self, trial: Any) -> dict[str, str]:
        row = self._progress.row(trial.config["trial_id"])
        values = (self._progress.name, row.trial_id, row.algorithm, row.scenario)
        return dict(zip(TAGS, values, strict=True))
