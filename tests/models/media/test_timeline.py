"""Cutting durations into segments, and the planned times of moments."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.media.timeline import ClipSpec, MomentPlan, segment_bounds

SPEC = ClipSpec()
durations = st.floats(min_value=1e-3, max_value=20_000, allow_nan=False)


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        (0.0, []),
        (-1.0, []),
        (0.1, [(0, 0.1)]),
        (9.999, [(0, 9.999)]),
        (10.0, [(0, 10)]),
        (10.999, [(0, 10)]),
        (11.0, [(0, 10), (10, 11)]),
        (25.5, [(0, 10), (10, 20), (20, 25.5)]),
    ],
)
def test_worked_examples(duration: float, expected: list[tuple[float, float]]) -> None:
    assert segment_bounds(duration, SPEC) == expected


@given(durations)
def test_segments_tile_the_file_up_to_a_rest_too_short(duration: float) -> None:
    bounds = segment_bounds(duration, SPEC)
    assert bounds[0][0] == 0
    assert all(left[1] == right[0] for left, right in pairwise(bounds))
    assert all(end - start == SPEC.segment_seconds for start, end in bounds[:-1])
    start, end = bounds[-1]
    assert 0 < end - start <= SPEC.segment_seconds
    assert len(bounds) == 1 or end - start >= SPEC.min_segment_seconds
    assert 0 <= duration - end < SPEC.min_segment_seconds


@given(durations, st.integers(0, 40), st.one_of(st.none(), st.integers(1, 5)), st.floats(0, 450))
def test_next_time_is_the_first_planned_one(
    duration: float, first: int, count: int | None, seconds: float
) -> None:
    stop = None if count is None else first + count
    plan = MomentPlan(spec=SPEC, first=first, stop=stop, duration_seconds=duration)
    segments = range(first, (stop or first + 60))
    planned = [plan.time(segment, i) for segment in segments for i in range(16)]
    later = [time for time in planned if time >= seconds - 1e-6]
    expected = min(later, default=math.inf)
    if expected < math.inf or stop is not None:
        assert plan.next_time(seconds) == pytest.approx(expected, abs=1e-9)


@given(durations)
def test_moments_divide_the_segment_evenly(duration: float) -> None:
    plan = MomentPlan(spec=SPEC, duration_seconds=duration)
    for segment, (start, end) in enumerate(segment_bounds(duration, SPEC)[:3]):
        times = [plan.time(segment, i) for i in range(16)]
        assert times == pytest.approx([start + i / 16 * (end - start) for i in range(16)])


def test_segments_that_are_not_wanted_have_no_times() -> None:
    plan = MomentPlan(spec=SPEC, first=2, stop=4)
    assert plan.time(1, 0) == plan.time(4, 0) == math.inf
    assert (plan.start_seconds, plan.stop_seconds) == (20, 40)
    assert MomentPlan(spec=SPEC).stop_seconds == math.inf


def test_a_spec_checks_itself() -> None:
    with pytest.raises(ValueError, match="num_moments must be positive and finite, got 0"):
        ClipSpec(num_moments=0)
    with pytest.raises(ValueError, match=r"whole number of samples, got 1\.00001 s"):
        ClipSpec(segment_seconds=1.00001)
    assert ClipSpec().segment_samples == 160_000
