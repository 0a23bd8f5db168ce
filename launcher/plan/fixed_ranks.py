"""Which scenarios of a sweep have ranks that cannot change, by the settings that its trials have."""

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
    """Say before a sweep runs which scenarios have ranks that cannot change.

    Args:
      study: the sweep.
      trials: as drawn; none where a searcher draws them while the sweep runs. It then goes by the scenarios themselves,
        without those whose settings are searched over.
    """
    drawn = [(trial.base, trial.hyperparameters) for trial in trials]
    if not drawn:
        searched = {base.scenario for base in study.bases if any(map(_own, (axis.key for axis in study.axes_of(base))))}
        drawn = [(base, {}) for base in study.bases if base.scenario not in searched]
    found = ((base.scenario, _mobility(base.config, values)) for base, values in drawn)
    return rank_note((scenario, mobility) for scenario, mobility in found if mobility is not None)


def note_of_trials(folder: Path, trials: Iterable[TrialRecord]) -> str | None:
    """Say at a sweep's end which scenarios have ranks that cannot change.

    One config is read for each algorithm and scenario: its trials differ in their hyperparameters alone.

    Args:
      folder: the sweep's.
      trials: of the sweep.
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
    """What a trial's settings allow; None where it plays another game."""
    own = {key.removeprefix(SCENARIO): value for key, value in hyperparameters.items() if _own(key)}
    return mobility_in(with_values(config.get("env", {}).get("scenario", {}), own))


def _own(key: str) -> bool:
    """Whether a hyperparameter is a setting of the scenario."""
    return key.startswith(SCENARIO)
