from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from models.clip import Clip, ClipSpec
from training import pairs
from training.listing import Item, list_items
from training.pairs import Failure, work_on_pairs
from training.segments import PairedSegments

SHORT = ClipSpec(segment_seconds=0.25, min_segment_seconds=0.25)
"""So that a clip of 10 s has more segments than are decoded at a time."""


def starts(clip: Clip) -> float:
    return clip.start_seconds


def crash_in_the_middle(clip: Clip) -> float:
    if clip.start_seconds == 8.0:
        os._exit(3)
    return clip.start_seconds


def hang(clip: Clip) -> float:
    time.sleep(60)
    return clip.start_seconds


def test_every_segment_comes_in_order_and_failures_in_their_place(corpus: Path) -> None:
    items = list_items([corpus])
    seen: list[tuple[int, int]] = []
    found = list(work_on_pairs(items, SHORT, starts, num_workers=2, on_progress=lambda *at: seen.append(at)))
    assert seen == [(done, len(items)) for done in range(1, len(items) + 1)]
    for number, item in enumerate(items):
        mine = [result for result in found if not isinstance(result, Failure) and result[0] == number]
        failures = [
            result.reason for result in found if isinstance(result, Failure) and result.path == item.name
        ]
        if "-" in item.name.rsplit("/", 1)[1] or "broken" in item.name:
            assert not mine
            assert len(failures) == 1
        else:
            assert [start for _, start in mine] == [0.25 * k for k in range(40)]
            assert not failures
    numbers = [result[0] for result in found if not isinstance(result, Failure)]
    assert numbers == sorted(numbers)


def test_a_process_that_dies_costs_the_rest_of_its_item_only(segments: PairedSegments) -> None:
    items = [Item(path=Path(path)) for path in segments.paths[:2]]
    found = list(work_on_pairs(items, SHORT, crash_in_the_middle, num_workers=1))
    crash = "crash: the decoder ended with exit code 3"
    expected = []
    for number, item in enumerate(items):  # the second 32 of 40 segments hold the one at 8 s
        expected += [(number, 0.25 * k) for k in range(32)]
        expected.append(Failure(path=item.name, reason=crash))
    assert found == expected


def test_a_process_that_hangs_costs_its_item_only(
    segments: PairedSegments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "MAX_SECONDS", 1.0)
    items = [Item(path=Path(segments.paths[0]))]
    found = list(work_on_pairs(items, ClipSpec(), hang, num_workers=1))
    assert found == [Failure(path=segments.paths[0], reason="too_slow: not decoded within 1 s")]


def test_a_link_in_a_folder_is_followed(segments: PairedSegments, tmp_path: Path) -> None:
    (tmp_path / "link.mp4").symlink_to(segments.paths[0])
    assert list(work_on_pairs(list_items([tmp_path]), ClipSpec(), starts, num_workers=1)) == [(0, 0.0)]
