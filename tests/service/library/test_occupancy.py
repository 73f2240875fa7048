"""Busy time of a stage, by a clock that the test moves."""

from __future__ import annotations

import pytest

from service.library.occupancy import Occupancy


def test_busy_time_is_the_share_of_workers() -> None:
    now = [100.0]
    stage = Occupancy(2, clock=lambda: now[0])
    now[0] += 5.0  # idle
    stage.enter()
    now[0] += 3.0  # one of two
    stage.enter()
    stage.enter()  # a third task waits and counts for nothing
    now[0] += 1.0
    assert stage.seconds == pytest.approx(0.5 * 3.0 + 1.0)
    stage.leave()
    stage.leave()
    with stage.working():
        now[0] += 1.0
    stage.leave()
    now[0] += 9.0
    assert stage.seconds == pytest.approx(2.5 + 1.0)
