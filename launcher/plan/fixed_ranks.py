"""Find the scenarios of a sweep whose ranks cannot change under the settings of its trials."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jax_party.config import with_values
from jax_party.env.rank_mobility import RankMobility, mobility_in, rank_note
from jax_party.errors import RecordError
from jax_party.trial.folder import read_config
from jax_party.trial.record import TrialRecord
from launcher.plan.study import PlannedTrial, Study

SCENARIO = "env.scenario."


def note_of_plan(study: Study, trials: Iterable[PlannedTrial]) -> str | None:
    """Describe, before a sweep runs, which scenarios have ranks that cannot change; None if there are none.

    Args:
      study: the sweep.
      trials: the planned trials; empty if a searcher draws them while the sweep runs. The scenarios' own settings are
        then used, and scenarios whose settings are searched over are left out.
    """
    drawn = [(trial.base, trial.hyperparameters) for trial in trials]
    if not drawn:
        searched = {base.scenario for base in study.bases if any(map(_own, (axis.key for axis in study.axes_of(base))))}
        drawn = [(base, {}) for base in study.bases if base.scenario not in searched]
    found = ((base.scenario, _mobility(base.config, values)) for base, values in drawn)
    return rank_note((scenario, mobility) for scenario, mobility in found if mobility is not None)


def note_of_trials(folder: Path, trials: Iterable[TrialRecord]) -> str | None:
    """Describe, at a sweep's end, which scenarios have ranks that cannot change; None if there are none.

    Only one config per algorithm and scenario is read, because its trials differ only in their hyperparameters.

    Args:
      folder: the sweep's folder.
      trials: the sweep's trials.
    """
    return rank_note(_each_of(folder, trials))


def _each_of(folder: Path, trials: Iterable[TrialRecord]) -> Iterator[tuple[str, RankMobility]]:
    configs: dict[tuple[str, str], Mapping[str, Any]] = {}
    for record in trials:
        group = record.algorithm, record.scenario
        if group not in configs:
            try:
                configs[group] = read_config(folder / record.trial_id)
            except RecordError:  # the next trial of the group may have one
                continue
        mobility = _mobility(configs[group], record.hyperparameters)
        if mobility is not None:
            yield record.scenario, mobility


def _mobility(config: Mapping[str, Any], hyperparameters: Mapping[str, Any]) -> RankMobility | None:
    """Return how ranks can change under a trial's settings; None if it plays another game."""
    own = {key.removeprefix(SCENARIO): value for key, value in hyperparameters.items() if _own(key)}
    return mobility_in(with_values(config.get("env", {}).get("scenario", {}), own))


def _own(key: str) -> bool:
    """Return whether a hyperparameter is a setting of the scenario."""
    return key.startswith(SCENARIO)
