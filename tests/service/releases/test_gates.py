"""Gates: each passes and fails by itself, and says why."""

from __future__ import annotations

import json
import math
from typing import Any, cast

import numpy as np
import pytest

from service.index.contract import Index, SegmentMatch, VectorQuery
from service.index.layout import VectorLayout
from service.releases.documents import Gate, explain_refusal, name_gate, show_verdict
from service.releases.gates import Generation, compare_paired, describe_gates, judge, measure_overlap
from service.releases.store import Release
from tests.support.bundles import described_bundle
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
    assert {gate["verdict"] for name, gate in gates.items() if name.startswith("recall")} == {"passed"}


@pytest.mark.parametrize(
    ("gate", "changes", "reason"),
    [
        ("coverage", {"num_embedded": 98}, "98 of 100 assets are embedded; at least 99% are needed"),
        (
            "recall_video_to_audio",
            {"new": GOOD | {"audio": make_pairs("audio", [1] * 48 + [2] * 52)}},
            r"picture → sound, 100 queries: R@1 48.0%, was 60.0% \(change -12.0%, 95 % interval "
            r"-19.8% to -3.8%\); .*; R@1 and median rank fell, and a fall of 2.0% is allowed",
        ),
        (
            "recall_audio_to_video",
            {"new": GOOD | {"video": make_pairs("video", [1] * 40 + [2] * 10 + [0] * 50)}},
            "sound → picture, 100 queries: R@1 40.0%, was 50.0% .*; R@1 and median rank fell",
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


def test_a_cost_that_is_meant_has_no_limit() -> None:
    dear = TRIAL | {"segment_seconds": 10.0, "peak_bytes": 6_000_000_000}
    gates = measure(trial=dear, cost="any", overlap=0.05)
    assert [name for name, gate in gates.items() if not gate["passed"]] == ["overlap"]  # the others hold
    assert gates["latency"]["limit"] is None
    assert gates["latency"]["reason"] == "latency is 10 s a segment, of the active release 0.1: 100.00 x"


# Recall, on the same queries


def recall(new: list[int], active: list[int]) -> Gate:
    """The gate of one direction for the ranks of the same queries; 0 for a rank above 100."""
    pairs = {"new": {"audio": make_pairs("audio", new)}, "active": {"audio": make_pairs("audio", active)}}
    return measure(**pairs)["recall_video_to_audio"]


def draw_ranks(rng: np.random.Generator, num_queries: int, *, middle: float) -> list[int]:
    """Ranks that scatter about a median."""
    drawn = np.ceil(middle * np.exp(rng.normal(scale=1.2, size=num_queries))).astype(int)
    return np.where(drawn > 100, 0, drawn).tolist()


def test_two_of_94_queries_refuse_nothing() -> None:
    """R@1 falls from 4 to 2 of 94, while R@10 and the median rank rise: a gate that looks at R@1 alone refuses."""
    active = [1] * 4 + [8] * 20 + [40] * 70
    new = [1] * 2 + [5] * 40 + [30] * 52
    gate = recall(new, active)
    assert gate["value"] == 2 / 94 < cast(float, gate["limit"])
    assert (gate["passed"], gate["verdict"]) == (True, "cannot_tell")
    for words in ("R@1 2.1%, was 4.3%", "R@10 44.7%, was 25.5%", "median rank 30, was 40", "too few queries"):
        assert words in gate["reason"]


def test_equal_releases_are_seldom_refused_and_worse_ones_are() -> None:
    rng = np.random.default_rng(0)
    refused = {
        middle: np.mean(
            [
                not recall(draw_ranks(rng, 300, middle=middle), draw_ranks(rng, 300, middle=5))["passed"]
                for _ in range(100)
            ]
        )
        for middle in (4, 5, 8)
    }
    assert refused[4] == 0
    assert refused[5] <= 0.06  # one side of three intervals that hold together with 95 %
    assert refused[8] > 0.95


def test_many_queries_tell_that_nothing_fell() -> None:
    active = [1, 2] * 50 + [3, 12] * 950
    assert recall(active, active)["verdict"] == "passed"
    swapped = [2, 1] * 50 + [3, 12] * 950  # as many better as worse
    assert recall(swapped, active)["verdict"] == "passed"
    assert recall(swapped[:190], active[:190])["verdict"] == "cannot_tell"


def test_each_measure_alone_refuses() -> None:
    active = [1] * 100 + [5] * 100 + [50] * 200
    at_10 = [1] * 100 + [5] * 60 + [11] * 40 + [49] * 200  # ranks rise and fall, but 40 leave the ten best
    assert "R@10 fell" in recall(at_10, active)["reason"]
    ranks = [1] * 100 + [9] * 100 + [90] * 200
    assert recall(ranks, active)["reason"].endswith("median rank fell, and a fall of 2.0% is allowed")
    unseen = [1] * 100 + [5] * 100 + [0] * 200
    assert "median rank above 100, was 27.5" in recall([1] * 100 + [5] * 99 + [0] * 201, active)["reason"]
    assert not recall(unseen, active)["passed"]


def test_queries_without_a_track_in_one_release_are_left_out_of_both() -> None:
    gate = recall([-1, *[1] * 99], [*[1] * 99, -1])
    assert "98 queries" in gate["reason"]
    assert gate["verdict"] == "passed"


def test_the_interval_is_that_of_agresti_and_min() -> None:
    # By hand: half a query more in each of the four cells of the table, then Wald's interval at 1 - 0.05 / 3.
    new, active = np.array([0] * 9 + [1] * 3 + [0] * 28), np.array([1] * 9 + [0] * 3 + [0] * 28)
    better, worse, total = 9.5, 3.5, 42
    middle = (better - worse) / total
    reach = 2.3940 * math.sqrt((better + worse) / total - middle**2) / math.sqrt(total)
    net, low, high = compare_paired(new, active)
    assert net == pytest.approx(6 / 40)
    assert (low, high) == pytest.approx((middle - reach, middle + reach), abs=1e-4)


def test_gates_of_before_have_a_name_and_a_verdict() -> None:
    old = Gate(
        gate="recall_audio_to_video", value=0.1, active=0.2, limit=0.18, passed=False, reason="it fell"
    )
    assert (name_gate(old), show_verdict(old)) == ("recall, sound → picture", "failed")
    new = recall([1, 2], [2, 1])
    assert (name_gate(new), show_verdict(new)) == ("recall, picture → sound", "cannot tell")
    assert name_gate(measure()["latency"]) == "latency"


def test_a_refusal_says_how_it_is_forced_if_it_can_be() -> None:
    gates = describe_gates([*measure(overlap=0.0).values()], TRIAL, {"new": GOOD, "active": GOOD})
    release = Release(release_id="r", bundle_id="b", outcome="refused", created_at=0, gates=gates)
    words = explain_refusal(release.to_json())
    assert words.startswith("release r was refused: of the ten best assets 0%")
    assert "`foley releases activate r --force WHY`" in words
    hung = Release(
        release_id="r",
        bundle_id="b",
        outcome="refused",
        created_at=0,
        gates={"passed": False, "reasons": ["it hangs"]},
    )
    assert explain_refusal(hung.to_json()) == (
        "release r was refused: it hangs. It was not measured to the end: it cannot be forced"
    )


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
    assert found["recall"]["new"]["audio"] == {"at_1": 0.6, "at_5": 1.0, "at_10": 1.0, "median_rank": 1.0}
    assert found["undecided"] == []
    assert found["gates"][0]["limit"] is None  # JSON has no infinity
    assert found["trial"]["engine"] == "onnxruntime fp32"


class FoundIndex:
    """An index whose every search finds the same assets."""

    def __init__(self, found: list[int], *, has_track: bool = True) -> None:
        self.found = found
        self.has_track = has_track

    layout = VectorLayout.of_both(16, 4)

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
    bundle = described_bundle()
    both = [Generation(bundle=bundle, index=cast(Index, index)) for index in (new, active)]
    queries = [(make_asset(n), 0.0) for n in range(3)]
    return measure_overlap(*both, queries, target="audio")


def test_overlap_is_the_share_of_the_ten_best() -> None:
    ten = list(range(10))
    assert overlap(FoundIndex(ten), FoundIndex(ten)) == 1.0
    assert overlap(FoundIndex([0, 1, 2, *range(50, 57)]), FoundIndex(ten)) == pytest.approx(0.3)
    assert overlap(FoundIndex(ten[::-1]), FoundIndex(ten)) == 1.0, "the order does not count"
    assert overlap(FoundIndex([*range(20, 30), 0]), FoundIndex(ten)) == 0.0, "the eleventh does not count"
    assert overlap(FoundIndex([0]), FoundIndex([0, 1])) == 0.5
    assert overlap(FoundIndex(ten, has_track=False), FoundIndex(ten)) is None
    assert overlap(FoundIndex([]), FoundIndex([])) is None
