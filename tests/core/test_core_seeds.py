"""Several seeds in a trial, and several trials side by side: each learns as it would alone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flashbax.vault import Vault
from jax.experimental.compilation_cache import compilation_cache

import jax_party.training.program
from jax_party.config import parse_config
from jax_party.errors import TrainingDiverged
from jax_party.judging.aggregate import aggregate, aggregate_metrics, interquartile_mean, spread
from jax_party.training.batching import Batch, Form, Learners, choose, stack, unstack
from jax_party.training.experiment import Experiment
from jax_party.training.side_by_side import advance
from jax_party.trial.folder import read_config, read_record, update_record, write_record
from jax_party.trial.marl_eval import MARL_EVAL_FILE
from jax_party.trial.metrics import METRICS_FILE, read_metrics
from jax_party.trial.states import State
from mava_configs import ALGORITHMS

IN_MAKE_TEST = ("ff_ippo", "rec_qmix")
"""An on-policy system, and one with memory, replay and a branch on whether it learns; the others are slow tests."""

TIMES = ("wall_time_s", "evaluation_time_s")


def _run(folder: Path) -> Experiment:
    experiment = Experiment(parse_config(read_config(folder)), folder)
    while not experiment.finished:
        experiment.step()
    experiment.close()
    return experiment


def _rows(folder: Path, seed: int | None = None) -> list[dict[str, Any]]:
    """Rows of the metrics without what a clock says."""
    rows = [row for row in read_metrics(folder) if seed in (None, row["seed"])]
    for row in rows:
        for name in TIMES:
            row.pop(name, None)
        row["train"].pop("steps_per_second", None)
    return rows


def _vault(folder: Path, uid: str) -> dict[str, np.ndarray]:
    experience = Vault(rel_dir=str(folder / "vaults"), vault_name="jax_party", vault_uid=uid).read().experience
    return {name: np.asarray(values) for name, values in experience.items()}


def _equal(one: Any, other: Any) -> None:
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(np.asarray(left), np.asarray(right))


@pytest.fixture(scope="module")
def trial(tiny_mapping: Callable[..., Any], make_folder: Callable[..., Path]) -> Callable[..., Path]:
    """`trial(path, algorithm, overrides)`: a tiny trial's folder with as many seeds as the config says."""

    def make(path: Path, algorithm: str, *overrides: str, how: str = "mean") -> Path:
        mapping = tiny_mapping(algorithm, *overrides)
        folder = make_folder(path, mapping)
        record = read_record(folder)
        objective = dataclasses.replace(record.objective, aggregate=how)
        update_record(folder, num_seeds=mapping["arch"]["num_seeds"])
        write_record(folder, dataclasses.replace(read_record(folder), objective=objective))
        return folder

    return make


@pytest.mark.parametrize("algorithm", ["rec_qmix"])
def test_each_seed_of_a_trial_is_the_trial_of_that_seed(algorithm: str, tmp_path: Path, trial: Any) -> None:
    """Bit for bit, in metrics, vaults and parameters; the trial's own numbers are their aggregate."""
    several = _run(
        trial(tmp_path / "several", algorithm, "arch.num_seeds=3", "arch.batch=map", "vault=both", how="min")
    )
    alone = [_run(trial(tmp_path / f"s{s}", algorithm, f"system.seed={42 + s}", "vault=both")) for s in range(3)]
    for seed, single in enumerate(alone):
        # The best evaluation is one for all seeds, so that its networks are others than those of a seed alone.
        own, theirs = (
            [row for row in rows if not row.get("absolute")]
            for rows in (_rows(several.folder, 42 + seed), _rows(single.folder))
        )
        assert own == theirs and len(own) == len(_rows(single.folder)) - 1
        _equal(several.learners[seed].state.params, single.learners[0].state.params)
        for kind, suffix in (("train", ""), ("test", "-test")):
            uid = f"{several.record.trial_id}-s{42 + seed}{suffix}"
            _equal(_vault(several.folder, uid), _vault(single.folder, f"{single.record.trial_id}{suffix}"))
            assert uid in [entry.uid for entry in several.record.vaults if entry.kind == kind]
    lowest = min(single.record.final_metrics["episode_return"] for single in alone)
    assert several.record.final_metrics["episode_return"] == lowest
    finals = [_rows(single.folder)[-3]["evaluate"]["episode_return"] for single in alone]
    assert several.last_result()["episode_return"] == min(finals)
    file = json.loads((several.folder / MARL_EVAL_FILE).read_text())
    assert sorted(next(iter(next(iter(next(iter(file.values())).values())).values()))) == [
        "seed_42",
        "seed_43",
        "seed_44",
    ]


@pytest.mark.parametrize(
    "algorithm", [pytest.param(n, marks=[] if n in IN_MAKE_TEST else pytest.mark.slow) for n in ALGORITHMS]
)
def test_a_batched_program_does_what_each_learner_does_alone(algorithm: str, begin: Callable[..., Any]) -> None:
    """Three updates of learners that differ in seed and in every traced number; then an evaluation."""
    runs = [begin(algorithm, "vault=both", seed=seed) for seed in range(2)]
    program = runs[0].program
    hypers = [run.hyper for run in runs]
    hypers[1] = hypers[1]._replace(system={name: 0.9 * value for name, value in hypers[1].system.items()})
    vmapped, mapped = (
        Learners(Batch(program, width), hypers, [jax.tree.map(np.array, run.state) for run in runs]) for width in (3, 1)
    )
    for _ in range(3):
        one, other = vmapped.update(), mapped.update()
    keys = [jax.random.PRNGKey(7), jax.random.PRNGKey(8)]
    states = vmapped.release(), mapped.release()
    played = [
        Batch(program, width).evaluate(hypers, [state.params for state in of_form], keys)
        for width, of_form in zip((3, 1), states, strict=True)
    ]
    for left, right in zip(
        jax.tree.leaves((one, states[0], played[0])), jax.tree.leaves((other, states[1], played[1])), strict=True
    ):
        np.testing.assert_allclose(np.asarray(left), np.asarray(right), rtol=2e-3, atol=2e-4)


def test_a_seeds_absolute_metric_that_a_kill_cut_off_is_made_again(tmp_path: Path, trial: Any) -> None:
    folder = trial(tmp_path / "trial", "ff_ippo", "arch.num_seeds=2", "arch.batch=map")
    whole = _rows(_run(folder).folder)
    path = folder / METRICS_FILE
    path.write_bytes(path.read_bytes()[:-40])
    update_record(folder, state=State.RUNNING, absolute_metrics=None)
    assert len(_rows(folder)) == len(whole) - 1
    again = _run(folder)
    assert _rows(folder) == whole
    assert again.record.state is State.COMPLETE


def test_the_batched_form_resumes_bit_for_bit(tmp_path: Path, trial: Any) -> None:
    options = ("arch.num_seeds=2", "arch.batch=vmap", "vault=both")
    unbroken = _run(trial(tmp_path / "unbroken", "ff_ippo", *options))
    folder = trial(tmp_path / "broken", "ff_ippo", *options)
    broken = Experiment(parse_config(read_config(folder)), folder)
    broken.step()
    broken.step()
    broken.close()
    resumed = _run(folder)
    assert _rows(folder) == _rows(unbroken.folder)
    for one, other in zip(resumed.learners, unbroken.learners, strict=True):
        _equal((one.state, one.best_params), (other.state, other.best_params))
    for entry in unbroken.record.vaults:
        _equal(_vault(folder, entry.uid), _vault(unbroken.folder, entry.uid))
    assert resumed.record.batch == "vmap"


@pytest.mark.parametrize("form", list(Form))
def test_trials_side_by_side_are_what_they_are_alone(form: Form, tmp_path: Path, trial: Any) -> None:
    """Three trials with two seeds each, four learners at once; one trial diverges, and the others do not notice."""
    rates = ("1.0e-3", "1.0e+30", "2.0e-3")
    options = ("arch.num_seeds=2", f"arch.batch={form}", "vault=both")
    config = [(*options, f"system.actor_lr={rate}") for rate in rates]
    together = [trial(tmp_path / f"t{i}", "ff_ippo", *one) for i, one in enumerate(config)]
    experiments = [
        Experiment(parse_config(read_config(folder)), folder, company=3, most_at_once=4) for folder in together
    ]
    assert {one.batch.width for one in experiments} == {4 if form is Form.VMAP else 1}
    while any(not one.finished for one in experiments):
        going = [one for one in experiments if not one.finished]
        errors = advance(going)
        assert all((error is not None) == (one is experiments[1]) for one, error in zip(going, errors, strict=True))
        assert all(isinstance(error, TrainingDiverged) for error in errors if error is not None)
    for one in experiments:
        one.close()
    assert [one.record.state for one in experiments] == [State.COMPLETE, State.FAILED, State.COMPLETE]
    assert "seed 42" in (experiments[1].record.error or "")
    for index in (0, 2):
        alone = _run(trial(tmp_path / f"alone{index}", "ff_ippo", *config[index]))
        mine, theirs = _rows(together[index]), _rows(alone.folder)
        if form is Form.MAP:
            assert mine == theirs
            continue
        assert [(row["seed"], row["step"]) for row in mine] == [(row["seed"], row["step"]) for row in theirs]
        for row, other in zip(mine[:2], theirs[:2], strict=True):  # of the first period: later ones go their own way
            for name, value in row["train"].items():
                assert value == pytest.approx(other["train"][name], rel=2e-3, abs=2e-4)


def test_the_faster_form_is_chosen_once(
    begin: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jax_party.training.batching.compilation_cache_dir", lambda: tmp_path / "xla")
    run = begin("ff_isac")
    before = jax.tree.map(np.array, run.state)
    chosen = choose(run.program, [run.hyper] * 2, [run.state] * 2, "signature")
    _equal(before, run.state)
    (file,) = (tmp_path / "xla" / "batch_forms").iterdir()
    kept = json.loads(file.read_text())
    assert kept["form"] == chosen == min(kept["seconds_per_update"], key=kept["seconds_per_update"].get)
    other = next(form for form in Form if form is not chosen)
    file.write_text(json.dumps(kept | {"form": other}))
    assert choose(run.program, [run.hyper] * 2, [run.state] * 2, "signature") is other
    assert choose(run.program, [run.hyper], [run.state], "signature") is Form.MAP


def test_stacking() -> None:
    trees = [{"a": np.arange(3) + index, "b": (np.float32(index),)} for index in range(4)]
    stacked = stack(trees)
    assert stacked["a"].shape == (4, 3) and stacked["b"][0].shape == (4,)
    for one, other in zip(unstack(stacked, 4), trees, strict=True):
        _equal(one, other)


def test_aggregates_by_hand() -> None:
    values = [4.0, 1.0, 100.0, 3.0, 2.0, -50.0, 5.0, 6.0]
    assert interquartile_mean(values) == (2 + 3 + 4 + 5) / 4
    assert interquartile_mean([1.0, 2.0, 6.0]) == 3.0  # ⌊3/4⌋ = 0 are cut
    assert [aggregate(values, how) for how in ("mean", "median", "min")] == [71 / 8, 3.5, -50.0]
    assert spread([1.0, 3.0]) == pytest.approx(2**0.5)
    assert spread([1.0]) is None
    rows: list[dict[str, float | None]] = [{"a": 1.0, "b": 2.0, "c": None}, {"a": 3.0, "b": float("nan"), "c": 1.0}]
    assert aggregate_metrics(rows, "mean") == {"a": 2.0, "b": None, "c": None}


def test_the_interquartile_mean_is_scipys() -> None:
    """rliable's `aggregate_iqm` is SciPy's mean trimmed by a quarter at each end."""
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(0)
    for number in range(1, 30):
        values = generator.normal(size=number)
        assert interquartile_mean(list(values)) == pytest.approx(stats.trim_mean(values, 0.25), rel=1e-12)


def test_where_a_compiled_program_came_from(tmp_path: Path, trial: Any) -> None:
    """Compiled, then found in the process, then in XLA's persistent cache by a process that has not got it."""
    settings = ("system.rollout_length=8", "network.actor_network.pre_torso.layer_sizes=[17]")
    usual = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "xla"))
    compilation_cache.reset_cache()
    try:
        found = []
        for number in range(3):
            if number == 2:
                jax_party.training.program._program.cache_clear()
                jax.clear_caches()
            found.append(_run(trial(tmp_path / f"t{number}", "ff_ippo", *settings)).record)
    finally:
        jax.config.update("jax_compilation_cache_dir", usual)
        compilation_cache.reset_cache()
    assert [record.compile_cache for record in found] == ["miss", "process", "disk"]
    assert found[0].compile_time_s > 1.0
    assert found[1].compile_time_s == 0.0
    assert found[1].compile_time_saved_s == pytest.approx(found[0].compile_time_s, rel=0.01)
    assert found[2].compile_time_saved_s > 0.5
