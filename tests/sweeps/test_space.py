"""Sweep files: what is read, and the one clear error for everything that is wrong."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from jax_party.config import with_values
from jax_party.errors import ConfigError, SweepError
from sweeps import space
from sweeps.axes import Axis, AxisType
from sweeps.space import Budget

GOOD: dict[str, Any] = {
    "algorithms": ["ff_mappo"],
    "num_samples": 4,
    "objective": {"metric": "episode_return", "mode": "max"},
    "scenarios": ["p-base"],
    "budget": {"total_timesteps": 8192, "num_evaluation": 2},
    "overrides": {"arch.num_envs": 16},
    "space": {
        "system.actor_lr": {"type": "loguniform", "low": 1e-4, "high": 1e-3},
        "system.ppo_epochs": {"type": "int", "low": 1, "high": 4},
        "system.gamma": {"type": "choice", "values": [0.9, 0.99]},
    },
}
CONFIG: dict[str, Any] = {
    "arch": {"num_envs": 32},
    "system": {"actor_lr": 3e-4, "ppo_epochs": 4, "gamma": 0.99, "seed": 0},
}


def with_axis(**axis: Any) -> Callable[[dict[str, Any]], None]:
    return lambda raw: raw.update(space={"system.actor_lr": axis})


def setting(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda raw: raw.update(changes)


BAD: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (with_axis(type="loguniform", low=0.0, high=1.0), "system.actor_lr: log scale needs low > 0, got 0.0"),
    (with_axis(type="loguniform", low=-1, high=1.0), "system.actor_lr: log scale needs low > 0, got -1.0"),
    (with_axis(type="uniform", low=1.0, high=1.0), "system.actor_lr: needs low < high, got low 1.0 and high 1.0"),
    (with_axis(type="uniform", low=2, high=1), "system.actor_lr: needs low < high, got low 2.0 and high 1.0"),
    (with_axis(type="uniform", low="a", high=1), "system.actor_lr: low: expected a finite number, got 'a'"),
    (with_axis(type="uniform", high=1), "system.actor_lr: low: expected a finite number, got None"),
    (with_axis(type="uniform", low=0, high=float("inf")), "system.actor_lr: high: expected a finite number, got inf"),
    (with_axis(type="uniform", low=True, high=2), "system.actor_lr: low: expected a finite number, got True"),
    (with_axis(type="int", low=1.5, high=3), "system.actor_lr: low: type int needs a whole number, got 1.5"),
    (with_axis(type="choice", values=[]), "system.actor_lr: values: expected a list of at least one value, got []"),
    (with_axis(type="grid", values=3), "system.actor_lr: values: expected a list of at least one value, got 3"),
    (with_axis(type="choice", values=[1, 2, 1]), "system.actor_lr: values: 1 is listed twice"),
    (with_axis(type="logunifrom", low=1, high=2), "system.actor_lr: type: unknown 'logunifrom'; did you mean loguni"),
    (with_axis(type="uniform", low=1, high=2, step=1), "system.actor_lr: step: unknown (known: type, low, high, when)"),
    (with_axis(low=1, high=2), "system.actor_lr: type: unknown 'None'"),
    (setting(space={"system.actor_lr": 3}), "system.actor_lr: expected a mapping with a type, got 3"),
    (setting(space={}), "space: is empty"),
    (setting(space=None), "space: is empty"),
    (setting(num_samples=0), "num_samples: expected a whole number from 1, got 0"),
    (setting(num_samples=True), "num_samples: expected a whole number from 1, got True"),
    (setting(algorithms=[]), "algorithms: expected a list of at least one name, got []"),
    (setting(scenarios="p-base"), "scenarios: expected a list of at least one name, got 'p-base'"),
    (setting(objective={"mode": "up"}), "objective.mode: expected max or min, got 'up'"),
    (setting(objective={"metrics": "x"}), "objective: metrics: unknown; did you mean metric?"),
    (setting(objective=3), "objective: expected a mapping with metric, mode, at, aggregate, constraints, got 3"),
    (setting(budget={"total_timesteps": 0, "num_evaluation": 1}), "budget.total_timesteps: expected a whole number"),
    (setting(budget={"total_timesteps": 100}), "budget.num_evaluation: expected a whole number from 1, got None"),
    (setting(overrides=[1]), "overrides: expected a mapping of dotted keys to values, got [1]"),
    (setting(spase={}), "spase: unknown; did you mean space?"),
]  # fmt: skip


def test_reads_a_sweep_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(GOOD, sort_keys=False))
    spec = space.load_spec(path)
    assert spec.source == str(path)
    assert spec.budget == Budget(8192, 2)
    assert spec.axes == (
        Axis("system.actor_lr", AxisType.LOGUNIFORM, 1e-4, 1e-3),
        Axis("system.ppo_epochs", AxisType.INT, 1, 4),
        Axis("system.gamma", AxisType.CHOICE, values=(0.9, 0.99)),
    )
    assert {axis.key: axis.to_mapping() for axis in spec.axes} == GOOD["space"]


def test_numbers_that_yaml_reads_as_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = "algorithms: [a]\nscenarios: [s]\nbudget: {total_timesteps: 1e6, num_evaluation: 2}\n"
    path.write_text(text + "space: {k: {type: loguniform, low: 1e-4, high: 1e-2}}\n")
    spec = space.load_spec(path)
    assert spec.budget.total_timesteps == 1_000_000
    assert spec.axes[0].extremes() == (1e-4, 1e-2)


@pytest.mark.parametrize(("spoil", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_one_clear_error(spoil: Callable[[dict[str, Any]], Any], message: str) -> None:
    raw = copy.deepcopy(GOOD)
    spoil(raw)
    with pytest.raises(SweepError) as caught:
        space.parse_spec(raw, "sweeps/ppo.yaml")
    assert str(caught.value).startswith(f"sweeps/ppo.yaml: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "not valid YAML"), ("- 1", "expected a mapping"), (None, "cannot read the sweep file: No such file")],
)
def test_unreadable_file(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SweepError, match=message):
        space.load_spec(path)


def refuse_large_rates(config: Any) -> None:
    if config["system"]["actor_lr"] >= 1e-3:
        raise ConfigError("system.actor_lr: 0.001 is not valid")


def test_axes_against_the_composed_config() -> None:
    spec = space.parse_spec({**GOOD, "overrides": {}}, "mine.yaml")
    space.check_axes(spec, spec.axes, CONFIG, lambda config: None)
    with pytest.raises(SweepError, match=r"^mine.yaml: system.actor_lr: 0.001 is not valid$"):
        space.check_axes(spec, spec.axes, CONFIG, refuse_large_rates)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("system.actor_lrr", "system.actor_lrr: unknown key; did you mean system.actor_lr?"),
        ("system", "system: unknown key"),
        ("arch.num_envs", "arch.num_envs: is both an axis and a fixed override"),
    ],
)
def test_axes_that_name_no_free_key(key: str, message: str) -> None:
    spec = space.parse_spec({**GOOD, "space": {key: {"type": "grid", "values": [1]}}}, "mine.yaml")
    with pytest.raises(SweepError) as caught:
        space.check_axes(spec, spec.axes, CONFIG, lambda config: None)
    assert str(caught.value).startswith(f"mine.yaml: {message}")


def test_values_go_into_a_copy() -> None:
    changed = with_values(CONFIG, {"system.actor_lr": 1.0})
    assert changed["system"] == {**CONFIG["system"], "actor_lr": 1.0}
    assert CONFIG["system"]["actor_lr"] == 3e-4
    with pytest.raises(KeyError):
        with_values(CONFIG, {"system.nothing": 1.0})


@pytest.mark.parametrize("path", sorted(space.SWEEPS_DIR.glob("*.yaml")), ids=lambda path: path.name)
def test_every_sweep_file_fits_its_algorithms(path: Path) -> None:
    import mava_configs
    from jax_party.config import parse_config, static_key

    spec = space.load_spec(path)
    assert spec.source == f"sweeps/{path.name}"
    for algorithm in spec.algorithms:
        assert space.find_spec(algorithm) == path
        for scenario in spec.scenarios:
            config = mava_configs.compose(algorithm, [f"env/scenario={scenario}"])
            space.check_axes(spec, spec.axes_for(algorithm, "p-base"), config, parse_config)
            programs = {
                static_key(parse_config(with_values(config, {axis.key: value})))
                for axis in spec.axes
                for value in axis.extremes()
            }
            assert len(programs) == 1, "all trials of a scenario share one compiled program"


def test_importing_sweeps_is_light() -> None:
    code = "import sweeps.space, sys; print(sorted({'jax', 'ray', 'hydra', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


# -- Axes that exist for some ------------------------------------------------------------------------------------------


def spec_of(tmp_path: Path, **changes: Any) -> space.SweepSpec:
    name = changes.pop("name", "mine")
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **changes}))
    return space.load_spec(path)


def test_an_axis_may_exist_for_some_algorithms_and_scenarios_alone(tmp_path: Path) -> None:
    rate = {"type": "loguniform", "low": 1e-4, "high": 1e-2}
    written = {
        "system.actor_lr": [
            {**rate, "when": {"algorithm": ["ff_ippo"]}},
            {**rate, "high": 0.5, "when": {"algorithm": ["ff_mappo"], "scenario": ["p-base"]}},
        ],
        "system.gamma": {"type": "choice", "values": [0.9, 0.99]},
    }
    spec = spec_of(tmp_path, space=written)
    assert spec.space() == written
    assert spec.axis_keys() == ("system.actor_lr", "system.gamma")
    names = [axis.name for axis in spec.axes]
    assert names == [
        "system.actor_lr (algorithm=ff_ippo)", "system.actor_lr (algorithm=ff_mappo scenario=p-base)", "system.gamma",
    ]  # fmt: skip

    def there(algorithm: str, scenario: str) -> list[int]:
        return [names.index(axis.name) for axis in spec.axes_for(algorithm, scenario)]

    assert there("ff_ippo", "p-short") == [0, 2]
    assert there("ff_mappo", "p-base") == [1, 2]
    assert there("ff_mappo", "p-short") == [2]


def test_two_axes_of_a_key_must_not_exist_together(tmp_path: Path) -> None:
    axis = {"type": "choice", "values": [0.9, 0.99]}
    spec = spec_of(tmp_path, space={"system.gamma": [axis, {**axis, "when": {"algorithm": "ff_ippo"}}]})
    with pytest.raises(SweepError, match=r"system\.gamma: two axes of this key exist together; part them by `when`"):
        space.check_axes(spec, spec.axes_for("ff_ippo", "p-base"), CONFIG, lambda config: None)


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        ({"when": {"algorithms": "ff_ippo"}}, "when: algorithms: unknown; did you mean algorithm?"),
        ({"when": {}}, "when: expected a mapping with algorithm, scenario or both, got {}"),
        ({"when": {"scenario": []}}, "when: scenario: expected a name or a list of names, got []"),
        ({"type": "quniform"}, "q: expected a finite number, got None"),
        ({"type": "quniform", "q": 0}, "q: expected a step above 0, got 0.0"),
        ({"type": "quniform", "q": 0.3}, "low: 0.5 is no multiple of q = 0.3"),
        ({"type": "quniform", "low": 0.6, "q": 0.3}, "high: 2.0 is no multiple of q = 0.3"),
        ({"type": "uniform", "q": 0.5}, "q: unknown"),
        ({"type": "logint", "low": 0, "high": 4}, "log scale needs low > 0, got 0"),
        ({"type": "logint"}, "low: type logint needs a whole number, got 0.5"),
    ],
)
def test_a_bad_axis_is_one_clear_error(axis: dict[str, Any], message: str, tmp_path: Path) -> None:
    whole = {"type": "uniform", "low": 0.5, "high": 2.0, **axis}
    with pytest.raises(SweepError) as caught:
        spec_of(tmp_path, space={"system.actor_lr": whole})
    assert "system.actor_lr: " + message in str(caught.value)


def test_the_files_of_several_algorithms_are_merged(tmp_path: Path) -> None:
    gamma, rate = {"type": "choice", "values": [0.9, 0.99]}, {"type": "uniform", "low": 0.1, "high": 0.2}
    one = spec_of(tmp_path, name="one", algorithms=["a", "b"], space={"system.gamma": gamma, "system.x": rate})
    narrow = {**rate, "high": 0.15}
    two = spec_of(
        tmp_path, name="two", algorithms=["c"],
        space={"system.gamma": gamma, "system.x": narrow, "system.y": {**rate, "when": {"algorithm": "d"}}},
    )  # fmt: skip
    merged = space.merge_specs({"a": one, "b": one, "c": two})
    assert merged.algorithms == ("a", "b", "c")
    assert merged.space() == {
        "system.gamma": gamma,
        "system.x": [{**rate, "when": {"algorithm": ["a", "b"]}}, {**narrow, "when": {"algorithm": ["c"]}}],
    }
    assert space.merge_specs({"a": one, "b": one}) is one
    other = spec_of(tmp_path, name="three", algorithms=["c"], num_samples=99)
    with pytest.raises(SweepError, match=r"one\.yaml and .*three\.yaml: num_samples differs .*; give SAMPLES"):
        space.merge_specs({"a": one, "c": other})
