"""What Tune is given for a part of a sweep: trials, in what order and how many at once, workers, storage, callbacks."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.search.sample import Domain
from ray.tune.tune import TuneController

from jax_party.judging.objectives import Objective
from jax_party.store.retry import PATIENCE_VARIABLE
from jax_party.trial.manifest import SweepManifest
from launcher.ask.experiment_factory import EXPERIMENT_VARIABLE
from launcher.drive import tune
from launcher.drive.passes import Pass
from launcher.drive.spending import Spending
from launcher.drive.tune import KEPT_LEARNERS, STORING_S, run_in_tune
from launcher.drive.tune_controller import Controller
from launcher.drive.workers import SHARE
from launcher.machine.crew import Crew, Machine, Needs
from launcher.plan.sweep import Sweep
from launcher.search.given_trials import FINISHED, GivenTrials, InOrder
from launcher.work.failed_attempts import MAX_FAILURES
from launcher.work.trainable import ExperimentTrainable
from launcher.work.watchdog import GRACE_S

CLEANUP = "TUNE_FORCE_TRIAL_CLEANUP_S"
IDS = ("c", "a", "b")
HERE = {"git_sha": "0a1b2c", "git_dirty": True, "versions": {}}


class Shared:
    """Workers that trials share: what they are made of, how many trials have room, and when they are ended."""

    made: list[Shared] = []

    def __init__(self, settings: Any, crew: Crew, room: int, silent_s: float, nodes: Any = None) -> None:
        self.given = (settings, crew, room, silent_s, nodes)
        self.prefix = "worker-1-"
        self.places = 1
        self.stopped = False
        Shared.made.append(self)

    def places_now(self) -> int:
        return self.places

    def stop(self) -> None:
        self.stopped = True


class SuggestedTrials:
    """Draws up to seven more trials, two at once."""

    remaining = 7

    def __init__(self) -> None:
        self.most: Callable[[], int] = lambda: 2


def sweep_in(folder: Path, address: str | None = None, scheduler: str = "fifo") -> Sweep:
    manifest = SweepManifest(
        name="demo", engine="native", algorithm="ff_mappo", algorithms=("ff_mappo",), num_trials=3, seed=1,
        created="2026-01-02T03:04:05+00:00", objective=Objective("episode_return", "max"), search="random",
        scheduler=scheduler,
    )  # fmt: skip
    return Sweep(folder, manifest, {}, address)


def cluster(**changes: Any) -> Crew:
    """Four workers on two nodes of two cores."""
    machine = Machine((0, 1, 2, 3), 0, None, (Machine((0, 1), 0), Machine((0, 1), 0)))
    return Crew(machine, Needs(), 4, **{"follows": True, **changes})


HERE_CREW = Crew(Machine((0, 1, 2, 3), 0), Needs(), 2)


class Run:
    """A part of a sweep handed to Tune, and what Tune was called with."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.callback = SimpleNamespace(shared="of the pass before", nodes="of the pass before")
        self.spending = Spending(folder, {"steps": 10.0}, 1.0)
        self.trainable: Any = None
        self.given: dict[str, Any] = {}
        self.controller: Any = None
        self.shared: Shared | None = None
        self.environment: list[tuple[Callable[[str], bool], bool]] = []
        monkeypatch.setattr("launcher.drive.workers.SharedWorkers", Shared)
        monkeypatch.setattr("ray.tune.run", self._run)
        monkeypatch.setattr("ray.tune.tune.TuneController", TuneController)  # put back afterwards
        monkeypatch.setattr(tune, "hide_environment", self._hide)
        monkeypatch.setattr(tune, "current_provenance", lambda: HERE)
        monkeypatch.setattr(tune, "our_versions", lambda: {"jax": "0.10.2"})
        monkeypatch.setenv(CLEANUP, "untouched")
        monkeypatch.setenv(PATIENCE_VARIABLE, "10")
        monkeypatch.delenv(EXPERIMENT_VARIABLE, raising=False)

    def _run(self, trainable: Any, **given: Any) -> None:
        from ray.tune import tune as of_ray

        self.trainable, self.given, self.controller = trainable, given, of_ray.TuneController
        assert all(not made.stopped for made in Shared.made), "they are needed"

    def _hide(self, hidden: Callable[[str], bool], everything: bool) -> None:
        self.environment.append((hidden, everything))

    def __call__(
        self, part: Pass, crew: Crew = HERE_CREW, allowed: int | None = None, address: str | None = None,
        scheduler: str = "fifo", others: tuple[Any, ...] = (), nodes: Any = None,
    ) -> dict[str, Any]:  # fmt: skip
        Shared.made.clear()
        sweep = sweep_in(self.folder, address, scheduler)
        run_in_tune(sweep, crew, part, self.callback, others, self.spending, allowed, nodes)
        self.shared = Shared.made[-1] if Shared.made else None
        return self.given


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(tmp_path, monkeypatch)


def ids_of(search: Any) -> list[str]:
    """The trials that a search hands out while none of them ends."""
    found = []
    while isinstance(given := search.suggest(f"tune-{search.remaining}"), dict):
        found.append(given["trial_id"])
    return found


def test_planned_trials_come_in_their_order_as_many_at_once_as_there_are_workers(run: Run) -> None:
    given = run(Pass(IDS))
    assert run.trainable is ExperimentTrainable
    assert (given["max_concurrent_trials"], given["num_samples"]) == (2, 3)
    assert isinstance(given["search_alg"], GivenTrials) and isinstance(given["scheduler"], InOrder)
    assert ids_of(given["search_alg"]) == list(IDS)
    assert given["search_alg"].suggest("tune-9") is FINISHED, "Tune itself holds them back"


def test_a_trial_is_given_what_its_worker_needs_to_know(run: Run) -> None:
    config = run(Pass(IDS))["config"]
    assert config == {
        "sweep": str(run.folder), "metric": "episode_return", "workers": None, "failed": False, "population": False,
        "worker": config["worker"],
    }  # fmt: skip
    assert config["worker"]["sweep"] == str(run.folder)


def test_workers_are_kept_and_failures_tried_again(run: Run) -> None:
    given = run(Pass(IDS))
    assert (given["max_failures"], given["reuse_actors"], given["raise_on_failed_trial"]) == (MAX_FAILURES, True, False)
    assert given["resources_per_trial"] == {"cpu": 1.0}
    assert given["checkpoint_config"].num_to_keep is None
    assert (given["verbose"], given["_remote"]) == (0, False)
    assert run.controller is Controller, "in the place of Tune's own"


def test_a_worker_takes_the_share_of_a_gpu_that_it_was_given(run: Run) -> None:
    assert run(Pass(IDS), Crew(Machine((0, 1), 2), Needs(gpus=0.5), 4))["resources_per_trial"] == {
        "cpu": 1.0,
        "gpu": 0.5,
    }


def test_tune_keeps_its_files_beside_the_trials_and_by_their_ids(run: Run) -> None:
    given = run(Pass(IDS))
    assert (given["name"], given["storage_path"]) == ("tune", str(run.folder))
    assert "storage_filesystem" not in given
    trial = SimpleNamespace(config={"trial_id": "a"}, trial_id="tune's own")
    assert (given["trial_dirname_creator"](trial), given["trial_name_creator"](trial)) == ("a", "a")


def test_our_callback_is_told_first_and_knows_the_workers(run: Run) -> None:
    other, nodes = object(), object()
    assert run(Pass(IDS), others=(other,), nodes=nodes)["callbacks"] == [run.callback, other]
    assert (run.callback.shared, run.callback.nodes) == (None, nodes)


def test_a_spent_budget_stops_each_trial(run: Run) -> None:
    stop = run(Pass(IDS))["stop"]
    assert not stop("a", {"env_steps": 9})
    run.spending.update(10)
    assert stop("a", {"env_steps": 9})


@pytest.mark.parametrize(("allowed", "found"), [(None, IDS), (2, IDS[:2]), (9, IDS)])
def test_no_more_trials_than_are_allowed(run: Run, allowed: int | None, found: tuple[str, ...]) -> None:
    given = run(Pass(IDS), allowed=allowed)
    assert given["num_samples"] == len(found)
    assert ids_of(given["search_alg"]) == list(found)


def test_a_scheduler_that_stops_trials_is_passed_on(run: Run) -> None:
    scheduler = object()
    given = run(Pass(IDS, scheduler=scheduler), scheduler="asha")
    assert given["scheduler"] is scheduler
    assert given["max_concurrent_trials"] == 2
    assert ids_of(given["search_alg"]) == list(IDS)


# Who judges trials together, or draws them


@pytest.mark.parametrize(("allowed", "found"), [(None, IDS), (2, IDS[:2])])
def test_who_judges_trials_together_is_given_all_at_once(
    run: Run, allowed: int | None, found: tuple[str, ...]
) -> None:  # fmt: skip
    given = run(Pass(IDS, scheduler=object()), allowed=allowed, scheduler="hyperband")
    assert (given["search_alg"], given["num_samples"], given["max_concurrent_trials"]) == (None, 1, None)
    assert given["config"]["trial_id"] == {"grid_search": list(found)}
    assert "values" not in given["config"]
    assert given["checkpoint_config"].num_to_keep is None


def test_a_population_begins_with_the_values_of_each_trial_and_keeps_learners(run: Run) -> None:
    values = {trial_id: {"system.actor_lr": 0.1 * number} for number, trial_id in enumerate(IDS)}
    given = run(Pass(IDS, scheduler=object(), values=values), scheduler="pbt")
    config = given["config"]
    assert config["population"] is True
    assert config["trial_id"] == {"grid_search": list(IDS)}
    assert isinstance(config["values"], Domain)
    drawn = {trial_id: config["values"].func({"trial_id": trial_id}) for trial_id in IDS}
    assert drawn == values
    drawn["a"]["system.actor_lr"] = 9.0
    assert values["a"] == {"system.actor_lr": 0.1}, "Tune may change its own alone"
    assert given["checkpoint_config"].num_to_keep == KEPT_LEARNERS


@pytest.mark.parametrize(("allowed", "number"), [(None, 7), (3, 3), (9, 7)])
def test_suggested_trials_are_drawn_one_by_one(run: Run, allowed: int | None, number: int) -> None:
    suggested = SuggestedTrials()
    given = run(Pass(suggested=suggested), allowed=allowed)
    assert (given["search_alg"], given["num_samples"], given["max_concurrent_trials"]) == (suggested, number, None)
    assert suggested.most() == 2, "as it was made"
    assert "trial_id" not in given["config"]


# Workers that trials share


def test_trials_that_share_workers_take_next_to_nothing(run: Run) -> None:
    nodes, crew = object(), Crew(Machine((0, 1, 2, 3), 0), Needs(), 2, pack=4, period_timeout_s=5.0)
    given = run(Pass(IDS), crew, nodes=nodes)
    assert run.shared is not None and run.callback.shared is run.shared
    assert run.shared.given == (given["config"]["worker"], crew, 8, 5.0 + GRACE_S, nodes)
    assert given["config"]["workers"] == "worker-1-"
    assert given["resources_per_trial"] == {"cpu": 1 / SHARE}
    assert given["max_concurrent_trials"] == 8
    assert run.shared.stopped
    assert ids_of(given["search_alg"]) == list(IDS)


def test_where_nothing_holds_trials_back_the_room_of_each_worker_does(run: Run) -> None:
    run(Pass(IDS, scheduler=object()), Crew(Machine((0, 1), 0), Needs(), 2, pack=4), scheduler="hyperband")
    assert run.shared is not None and run.shared.given[2] == 4


# Clusters


def test_on_a_cluster_as_many_trials_run_as_there_are_places_now(run: Run) -> None:
    given = run(Pass(IDS), cluster(pack=2), address="auto")
    assert given["max_concurrent_trials"] is None
    search = given["search_alg"]
    assert ids_of(search) == ["c"]
    assert run.shared is not None
    run.shared.places = 2
    assert ids_of(search) == ["a"], "a node has joined"


def test_on_a_cluster_ray_itself_says_whether_a_worker_of_its_own_has_room(run: Run) -> None:
    given = run(Pass(IDS), cluster(), address="auto")
    assert given["max_concurrent_trials"] is None
    assert given["search_alg"]._most() == sys.maxsize
    assert ids_of(given["search_alg"]) == list(IDS)


def test_suggested_trials_follow_the_cluster(run: Run) -> None:
    suggested = SuggestedTrials()
    run(Pass(suggested=suggested), cluster(pack=2), address="auto")
    assert suggested.most() == 1
    run(Pass(suggested=suggested), cluster(), address="auto")
    assert suggested.most() == sys.maxsize


def test_a_cluster_of_which_a_part_was_asked_for_is_not_followed(run: Run) -> None:
    suggested = SuggestedTrials()
    assert run(Pass(IDS), cluster(follows=False), address="auto")["max_concurrent_trials"] == 4
    run(Pass(suggested=suggested), cluster(follows=False), address="auto")
    assert suggested.most() == 2


# Workers' settings, their environment, and storage


def test_a_worker_of_this_machine_needs_no_versions(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EXPERIMENT_VARIABLE, "tests.launcher.standin:StandIn")
    crew = Crew(Machine((0, 1), 0), Needs(), 2, pack=3, period_timeout_s=5.0)
    assert tune._worker_settings(sweep_in(run.folder), crew) == {
        "sweep": str(run.folder), "size": 3, "process": crew.settings(), "engine": "native",
        "experiment": "tests.launcher.standin:StandIn", "period_timeout_s": 5.0,
    }  # fmt: skip


def test_a_worker_of_a_cluster_must_have_our_versions_and_is_told_our_code(run: Run) -> None:
    settings = tune._worker_settings(sweep_in(run.folder, "auto"), cluster())
    assert (settings["versions"], settings["code"]) == ({"jax": "0.10.2"}, ["0a1b2c", True])
    assert settings["experiment"] is None


@pytest.mark.parametrize(("address", "everything"), [(None, True), ("auto", False)])
def test_secrets_are_kept_from_workers_and_from_our_own_everything(
    run: Run, address: str | None, everything: bool
) -> None:  # fmt: skip
    run(Pass(IDS), address=address)
    ((hidden, whether),) = run.environment
    assert whether is everything
    names = ["AWS_SECRET_ACCESS_KEY", "MY_AWS_TOKEN", "AWS_ENDPOINT_URL", "PATH", "JAX_PLATFORMS"]
    assert [name for name in names if hidden(name)] == names[:3]
    assert os.environ[CLEANUP] == "untouched", "a disk is no reason to wait"


class Bucket:
    """Object storage."""

    def on_disk(self, path: Path) -> None:
        return None

    def arrow(self, folder: Path) -> tuple[str, Any]:
        return f"bucket/{folder.name}", "S3"


def test_on_object_storage_tune_has_its_files_there_and_waits_for_workers_that_store(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "store_of", lambda path: Bucket())
    given = run(Pass(IDS))
    assert (given["storage_path"], given["storage_filesystem"]) == (f"bucket/{run.folder.name}", "S3")
    assert os.environ[CLEANUP] == str(10 + STORING_S)
