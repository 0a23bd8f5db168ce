"""Axes as Tune's domains, configurations drawn up front, and values as searchers write them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.plan.axes import Space, draw_configurations, tune_domain
from sweeps.axes import Axis, AxisType


def test_domains() -> None:
    assert tune_domain(Axis("k", AxisType.INT, 1, 3)).upper == 4
    draws = draw_configurations([Axis("k", AxisType.INT, 1, 3)], 3, seed=0)
    assert sorted(draw["k"] for draw in draws) == [1, 2, 3]
    assert all(type(draw["k"]) is int for draw in draws)


def test_whole_numbers_by_ratio_and_numbers_by_steps() -> None:
    sizes, rates = Axis("size", AxisType.LOGINT, 8, 512), Axis("rate", AxisType.QUNIFORM, 0.1, 0.7, q=0.2 / 2)
    drawn = draw_configurations([sizes, rates, Axis("rest", AxisType.UNIFORM, 0.0, 1.0)], 300, seed=0)
    values = [one["size"] for one in drawn]
    assert all(isinstance(value, int) for value in values)
    assert (min(values) < 10, max(values) <= 512, max(values) > 400) == (True, True, True)
    assert 0.4 < sum(value < 64 for value in values) / len(values) < 0.6, "64 is the middle of 8 to 512"
    assert {one["rate"] for one in drawn} == {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7}


AXES = (
    Axis("rate", AxisType.LOGUNIFORM, 1e-4, 1e-2),
    Axis("env/size", AxisType.INT, 2, 9),
    Axis("power", AxisType.LOGINT, 2, 512),
    Axis("step", AxisType.QUNIFORM, 0.2, 1.0, q=0.2),
    Axis("layers", AxisType.CHOICE, values=([64, 64], [128])),
    Axis("flag", AxisType.CHOICE, values=(True, False, None)),
    Axis("clip", AxisType.UNIFORM, 0.1, 0.2, when={"algorithm": ("a",)}),
    Axis("clip", AxisType.UNIFORM, 0.2, 0.3, when={"algorithm": ("b",)}),
)


@given(st.integers(0, 10**6))
def test_what_is_encoded_is_decoded(seed: int) -> None:
    (values,) = draw_configurations(AXES, 1, seed)
    space = Space(AXES)
    encoded = space.encode(values)
    assert "/" not in "".join(encoded)
    assert all(isinstance(value, (str, int, float, bool, type(None))) for value in encoded.values())
    assert space.decode(encoded) == values
    assert space.holds(values)
    assert set(encoded) == set(space.domains())


@pytest.mark.parametrize(
    ("axis", "given_value", "value"),
    [
        (AXES[0], 0.010000000000000002, 1e-2),
        (AXES[1], 8.999999, 9),
        (AXES[3], 0.6000000000000001, 0.6),
        (AXES[3], 0.49, 0.4),
    ],
)
def test_what_a_searcher_gives_lies_on_its_axis(axis: Axis, given_value: float, value: Any) -> None:
    decoded = Space([axis]).decode({axis.key.replace("/", "."): given_value})
    assert decoded == {axis.name: value}
    assert type(decoded[axis.name]) is type(value)


def test_values_off_the_axes_are_not_held() -> None:
    assert not Space(AXES[:1]).holds({"rate": 0.02})
    assert not Space(AXES[4:5]).holds({"layers": [32]})
    assert not Space(AXES[3:4]).holds({"step": 0.33})
    assert not Space(AXES[1:2]).holds({"env/size": 2.5})
