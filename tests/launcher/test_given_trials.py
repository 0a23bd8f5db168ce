"""Planned trials as Tune takes them."""

from __future__ import annotations

from types import SimpleNamespace

from ray.tune.trainable.metadata import _TrainingRunMetadata

from launcher.drive.trial_events import forget
from launcher.search.given_trials import FINISHED, GivenTrials, InOrder


def test_ids_are_given_out_once_each_in_their_order() -> None:
    given_trials = GivenTrials(["a", "b", "c"])
    given = []
    while given_trials.remaining:
        given.append(given_trials.suggest(f"tune-{given_trials.remaining}")["trial_id"])
    assert given == ["a", "b", "c"]
    assert given_trials.suggest("tune-0") == FINISHED


def test_no_pending_trial_is_chosen_over_others() -> None:
    class Controller:
        def get_trials(self) -> list[object]:
            raise AssertionError("asked for all trials at each event")

    assert InOrder().choose_trial_to_run(Controller()) is None


def test_what_tune_keeps_of_an_ended_trial_is_small() -> None:
    metadata = _TrainingRunMetadata()
    for step in range(20):
        for metric in range(50):
            metadata.update_metric(f"metric-{metric}", float(step), step)
    metadata.last_result = {"env_steps": 7}
    before = len(metadata.get_json_state())
    forget(SimpleNamespace(run_metadata=metadata))
    assert len(metadata.get_json_state()) < before / 20
    assert metadata.last_result == {"env_steps": 7}
