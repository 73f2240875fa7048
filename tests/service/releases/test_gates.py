"""Gates: each passes and fails by itself, and says why."""

from __future__ import annotations

import json
from typing import Any, cast

import numpy as np
import pytest

from service.index.contract import Index, SegmentMatch, VectorQuery
from service.releases.documents import Gate
from service.releases.gates import describe_gates, judge, measure_overlap
from tests.support.calibrations import make_asset
from tests.support.gates import GOOD, LIMITS, TRIAL, make_pairs


def measure(**changes: Any) -> dict[str, Gate]:
    given: dict[str, Any] = {
        "trial": TRIAL,
        "num_assets": 100,
        "num_embedded": 100,
        "new": GOOD,
        "active": GOOD,
        "overlap": 0.5,
    }
    return {gate["gate"]: gate for gate in judge(LIMITS, **(given | changes))}


def test_a_release_like_the_active_one_passes_every_gate() -> None:
    gates = measure()
    assert list(gates) == [
        "golden",
        "coverage",
        "recall_video_to_audio",
        "recall_audio_to_video",
        "overlap",
        "latency",
        "memory",
    ]
    assert all(gate["passed"] for gate in gates.values())
    assert gates["recall_video_to_audio"]["value"] == 0.6
    assert gates["recall_audio_to_video"]["value"] == 0.5


@pytest.mark.parametrize(
    ("gate", "changes", "reason"),
    [
        ("coverage", {"num_embedded": 98}, "98 of 100 assets are embedded; at least 99% are needed"),
        (
            "recall_video_to_audio",
            {"new": GOOD | {"audio": make_pairs("audio", [1] * 57 + [2] * 43)}},
            r"R@1 video_to_audio is 57.0%, of the active release 60.0% \(100 queries\): a fall of 2.0% is allowed",
        ),
        (
            "recall_audio_to_video",
            {"new": GOOD | {"video": make_pairs("video", [1] * 47 + [2] * 53)}},
            "R@1 audio_to_video is 47.0%, of the active release 50.0%",
        ),
        (
            "overlap",
            {"overlap": 0.09},
            "of the ten best assets 9% are those of the active release; at least 10%",
        ),
        (
            "latency",
            {"trial": TRIAL | {"segment_seconds": 0.21}},
            "latency is 0.21 s a segment, of the active release 0.1: 2.10 x, 2 x is allowed",
        ),
        (
            "memory",
            {"trial": TRIAL | {"peak_bytes": 601_000_000}},
            r"memory is 6.01e\+08 bytes, of the active release 3e\+08: 2.00 x, 2 x is allowed",
        ),
    ],
)
def test_a_gate_fails_alone_and_says_why(gate: str, changes: dict[str, Any], reason: str) -> None:
    gates = measure(**changes)
    assert [name for name, found in gates.items() if not found["passed"]] == [gate]
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(gates[gate]["reason"])


@pytest.mark.parametrize(
    ("gate", "changes"),
    [
        ("coverage", {"num_embedded": 99}),
        ("recall_video_to_audio", {"new": GOOD | {"audio": make_pairs("audio", [1] * 58 + [2] * 42)}}),
        ("overlap", {"overlap": 0.1}),
        ("latency", {"trial": TRIAL | {"segment_seconds": 0.2}}),
        ("memory", {"trial": TRIAL | {"peak_bytes": 600_000_000}}),
    ],
)
def test_what_is_allowed_passes(gate: str, changes: dict[str, Any]) -> None:
    assert measure(**changes)[gate]["passed"]


def test_a_library_that_is_too_small_is_judged_without_queries() -> None:
    gates = measure(new={}, active={}, overlap=None)
    assert list(gates) == ["golden", "coverage", "latency", "memory"]
    assert measure(num_assets=0, num_embedded=0)["coverage"]["passed"]


def test_gates_are_json_with_reasons_and_recalls() -> None:
    gates = list(measure(overlap=0.0).values())
    found = json.loads(
        json.dumps(describe_gates(gates, TRIAL, {"new": GOOD, "active": GOOD}), allow_nan=False)
    )
    assert found["passed"] is False
    assert found["reasons"] == [gate["reason"] for gate in gates if not gate["passed"]]
    assert found["recall"]["new"]["audio"] == {"at_1": 0.6, "at_5": 1.0, "at_10": 1.0}
    assert found["gates"][0]["limit"] is None  # JSON has no infinity
    assert found["trial"]["engine"] == "onnxruntime fp32"


class FoundIndex:
    """An index whose every search finds the same assets."""

    def __init__(self, found: list[int], *, has_track: bool = True) -> None:
        self.found = found
        self.has_track = has_track

    def get_track(self, asset_id: str, *, index: int, modality: str) -> Any:
        return np.zeros((16, 4)) if self.has_track else None

    def search_assets(self, query: VectorQuery) -> list[SegmentMatch]:
        return [
            SegmentMatch(
                asset_id=str(n), path="", start_seconds=0, end_seconds=1, score=0, moments=(), media={}
            )
            for n in self.found[: query.limit]
        ]


def overlap(new: FoundIndex, active: FoundIndex) -> float | None:
    queries = [(make_asset(n), 0) for n in range(3)]
    return measure_overlap(cast(Index, new), cast(Index, active), queries, target="audio")


def test_overlap_is_the_share_of_the_ten_best() -> None:
    ten = list(range(10))
    assert overlap(FoundIndex(ten), FoundIndex(ten)) == 1.0
    assert overlap(FoundIndex([0, 1, 2, *range(50, 57)]), FoundIndex(ten)) == pytest.approx(0.3)
    assert overlap(FoundIndex(ten[::-1]), FoundIndex(ten)) == 1.0, "the order does not count"
    assert overlap(FoundIndex([*range(20, 30), 0]), FoundIndex(ten)) == 0.0, "the eleventh does not count"
    assert overlap(FoundIndex([0]), FoundIndex([0, 1])) == 0.5
    assert overlap(FoundIndex(ten, has_track=False), FoundIndex(ten)) is None
    assert overlap(FoundIndex([]), FoundIndex([])) is None
