"""Planned trials as Tune takes them."""

from __future__ import annotations

from launcher.planned import FINISHED, InOrder, PlannedTrials


def test_ids_are_given_out_once_each_in_their_order() -> None:
    planned = PlannedTrials(["a", "b", "c"])
    given = []
    while planned.remaining:
        given.append(planned.suggest(f"tune-{planned.remaining}")["trial_id"])
    assert given == ["a", "b", "c"]
    assert planned.suggest("tune-0") == FINISHED


def test_no_pending_trial_is_chosen_over_others() -> None:
    class Controller:
        def get_trials(self) -> list[object]:
            raise AssertionError("asked for all trials at each event")

    assert InOrder().choose_trial_to_run(Controller()) is None
