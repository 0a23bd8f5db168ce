"""What ends a worker whose process stands still."""

from __future__ import annotations

from typing import Any

import pytest

from jax_party.store.retry import PATIENCE_VARIABLE
from launcher.drive.stalled_workers import AWAY_S, StalledWorkers
from launcher.work.watchdog import GRACE_S, LEAST_S, OPENING_S


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Driver:
    """Looks at one trial every other second."""

    def __init__(self, limit_s: float | None) -> None:
        self.clock = Clock()
        self.ended: list[Any] = []
        self.stalled = StalledWorkers(limit_s, self.ended.append, self.clock)

    def wait(self, seconds: float, every: float = 2.0) -> None:
        for _ in range(int(seconds / every)):
            self.clock.now += every
            self.stalled.tend([("trial", "actor")])


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PATIENCE_VARIABLE, "10")


def test_a_worker_that_is_not_heard_of_is_ended_once_and_the_reason_told_once() -> None:
    driver = Driver(3.0)
    driver.stalled.started("trial")
    driver.wait(2.0)
    driver.stalled.heard("trial")
    within = 3.0 + 3.0 + 2 * 10.0 + GRACE_S  # a period, putting it away, patience with storage, grace
    driver.wait(within)
    assert driver.ended == []
    driver.wait(100.0)
    assert driver.ended == ["actor"]
    reason = driver.stalled.reason("trial")
    assert reason == f"its worker had stood still for {within + 2:.0f} s and was given up (PERIOD_TIMEOUT)"
    assert driver.stalled.reason("trial") is None


def test_the_first_period_may_compile() -> None:
    driver = Driver(3.0)
    driver.stalled.started("trial")
    driver.wait(OPENING_S)
    assert driver.ended == []
    driver.wait(100.0)
    assert driver.ended == ["actor"]


def test_learns_how_long_periods_take() -> None:
    driver = Driver(None)
    driver.stalled.started("trial")
    for _ in range(2):
        driver.wait(100.0)
        driver.stalled.heard("trial")
    driver.wait(20 * 100.0)
    assert driver.ended == [], "as a worker's own watchdog: twenty times the longest"
    driver.wait(20 * 100.0 + 300.0)
    assert driver.ended == ["actor"]


def test_a_trial_that_nobody_plays_is_not_waited_for() -> None:
    driver = Driver(3.0)
    driver.stalled.started("trial")
    driver.stalled.heard("trial")
    driver.stalled.left("trial")
    driver.wait(2 * LEAST_S)
    assert driver.ended == []


def test_none_is_charged_for_the_time_that_the_driver_was_away() -> None:
    driver = Driver(3.0)
    driver.stalled.started("trial")
    driver.stalled.heard("trial")
    driver.wait(10_000.0, every=AWAY_S + 1)
    assert driver.ended == []


def test_none_is_ended_without_a_limit() -> None:
    driver = Driver(float("inf"))
    driver.stalled.started("trial")
    driver.stalled.heard("trial")
    driver.wait(100_000.0)
    assert driver.ended == []
