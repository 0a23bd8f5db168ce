"""Every instrument names the same winner: on a sweep whose curves fall, rise, cross and are cut short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from report_sweep import manifest, record_of

import results
from jax_party.judging.objectives import Objective
from jax_party.trial.folder import create_trial_folder
from jax_party.trial.manifest import read_manifest, write_manifest
from jax_party.trial.metrics import append_metrics
from jax_party.trial.states import State
from launcher.commands.winners import winners
from launcher.plan.sweep import Sweep
from launcher.show.ranking import rank
from results.command import show_main
from results.live.journal import JOURNAL_FILE, update_journal
from results.report.load import load

STEPS = range(100, 900, 100)
CURVES: dict[str, list[float]] = {
    # It learned least so far and stands highest: still falling.
    "slow": [100.0, 97.0, 94.0, 91.0, 88.0, 85.0, 82.0, 79.0, 76.0],
    # It fell at once and came to rest; the other one came to rest a little lower.
    "settled": [100.0, 80.0, 60.0, 52.0, 50.5, 50.0, 50.0, 50.0, 50.0],
    "lower": [100.0, 70.0, 50.0, 44.0, 43.0, 43.0, 43.0, 43.0, 43.0],
    # It rises from below, and crosses the settled one at its end.
    "rising": [10.0, 12.0, 16.0, 22.0, 28.0, 35.0, 42.0, 48.0, 55.0],
    # Cut short while it stood high.
    "pruned": [100.0, 99.0, 98.0],
}


def write(folder: Path, number: int, curve: list[float], at: str) -> str:
    state = State.PRUNED if len(curve) < 9 else State.COMPLETE
    objective = Objective("episode_return", "max", at=at)
    record = record_of(
        number, "ff_mappo", "p-base", number, 1, state=state, objective=objective, env_steps=100 * (len(curve) - 1),
        final_metrics={"episode_return": curve[-1]}, absolute_metrics={"episode_return": max(curve[1:])},
    )  # fmt: skip
    trial = folder / record.trial_id
    create_trial_folder(trial, {"system": {"name": "ff_mappo"}}, record)
    rows: list[dict[str, Any]] = [
        {"evaluation": place, "step": 100 * place, "seed": 0, "evaluate": {"episode_return": value},
         "se": {"episode_return": 0.2}} | ({} if place else {"untrained": True})
        for place, value in enumerate(curve)
    ]  # fmt: skip
    if state is State.COMPLETE:
        last = {"step": 800, "seed": 0, "se": {"episode_return": 0.05}}
        rows.append(last | {"evaluate": {"episode_return": curve[-1]}, "final": True})
        rows.append(last | {"evaluate": {"episode_return": max(curve[1:])}, "absolute": True})
    append_metrics(trial, *rows)
    return record.trial_id


def make(folder: Path, names: list[str], at: str = "final") -> dict[str, str]:
    """A sweep of these curves; name -> trial id."""
    plan = manifest(["ff_mappo"], ["p-base"], len(names), Objective("episode_return", "max", at=at))
    write_manifest(folder, plan)
    return {name: write(folder, number, CURVES[name], at) for number, name in enumerate(names)}


def named_by_all(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Instrument -> the trial that it names the best."""
    results.write_index(folder)
    update_journal(folder)
    index = results.load_index(folder)
    sweep = Sweep.read(folder)
    storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL_FILE)))
    study = optuna.load_study(study_name="ff_mappo p-base", storage=storage)
    assert show_main([str(folder), "--top", "1"]) == 0
    shown = capsys.readouterr().out
    by_configuration = dict(zip(index["configuration"], index["trial_id"], strict=True))
    (entries,) = rank(folder, sweep.manifest, sweep.searched).groups.values()
    return {
        "index": index.loc[index["standing"] == 1, "trial_id"].item(),
        "make index": next(one for one in index["trial_id"] if one in shown),
        "report": load(folder).best["ff_mappo", "p-base"].trials["trial_id"].item(),
        "optuna": study.best_trial.user_attrs["trial_id"],
        "optuna's attributes": study.user_attrs["best"][0],
        "promote": winners(sweep, 1)[0].record.trial_id,
        "summary": entries[0].trials[0].trial_id,
        "leaders": by_configuration[results.leaders(folder)["configuration"].item()],
    }


def test_all_name_the_settled_trial_that_ends_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = make(tmp_path / "s", list(CURVES))
    found = named_by_all(tmp_path / "s", capsys)
    assert set(found.values()) == {ids["settled"]}, found
    index = results.load_index(tmp_path / "s").set_index("trial_id")
    assert not index.loc[ids["settled"], "provisional"] and index.loc[ids["pruned"], "standing"] == 5
    assert index.loc[[ids[name] for name in ("slow", "rising")], "motion"].tolist() == ["falling", "rising"]


def test_the_best_evaluation_need_not_have_settled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = make(tmp_path / "s", list(CURVES), at="best")
    found = named_by_all(tmp_path / "s", capsys)
    assert set(found.values()) == {ids["slow"]}, found


def test_where_none_has_settled_all_say_provisional(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "s"
    ids = make(folder, ["slow", "rising"])
    found = named_by_all(folder, capsys)
    assert set(found.values()) == {ids["slow"]}, found
    assert results.leaders(folder)["provisional"].tolist() == [True]
    assert load(folder).best["ff_mappo", "p-base"].provisional
    assert show_main([str(folder)]) == 0 and "The best is provisional" in capsys.readouterr().out
    storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL_FILE)))
    assert optuna.load_study(study_name="ff_mappo p-base", storage=storage).user_attrs["provisional"] is True


def test_a_trial_that_settles_later_takes_the_lead_in_optunas_journal_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What has ended stays as it is in Optuna: the study is written anew, once."""
    folder = tmp_path / "s"
    ids = make(folder, ["slow"])
    assert set(named_by_all(folder, capsys).values()) == {ids["slow"]}
    plan = read_manifest(folder)
    write_manifest(folder, type(plan)(**{**vars(plan), "num_trials": 2}))
    later = write(folder, 1, CURVES["settled"], "final")
    assert set(named_by_all(folder, capsys).values()) == {later}
    size = (folder / JOURNAL_FILE).stat().st_size
    update_journal(folder)
    assert (folder / JOURNAL_FILE).stat().st_size == size
