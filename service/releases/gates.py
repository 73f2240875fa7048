"""Whether a new release may answer: measured beside the active one, on the library's own pairs.

A gate that fails says why in words. All are measured, passed or not, so that two releases can be compared.

    golden      tracks of the bundle's own clip are those of its export, in the precision that will serve
    coverage    share of the active release's assets that the new one has embedded
    recall      zero-shot R@1 of sampled assets in both directions, against the active release on the same queries
    overlap     mean share of the ten best assets that both releases find for the same query
    latency     time to encode one segment, against the active release, in turns
    memory      peak of a process that loads the bundle and encodes, against the active release
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from service.index.contract import Asset, Index, VectorQuery
from service.search.calibration import DIRECTIONS, Pairs
from service.search.prefetch import choose_prefetch
from service.system.modality import Modality

OVERLAP_RESULTS = 10


@dataclass(frozen=True, kw_only=True)
class GateLimits:
    """What a release must keep.

    Attributes:
        max_recall_drop: How far R@1 may fall below that of the active release, in each direction.
        min_overlap: Least mean overlap of the ten best.
        min_coverage: Least share of assets embedded.
        max_latency_ratio: Most time of a segment, as a multiple of that of the active release.
        max_memory_ratio: Most memory, as a multiple of that of the active release.
    """

    max_recall_drop: float = 0.02
    min_overlap: float = 0.1
    min_coverage: float = 0.99
    max_latency_ratio: float = 2.0
    max_memory_ratio: float = 2.0


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One thing measured.

    Attributes:
        gate: Its name.
        value: What was measured of the new release.
        active: The same of the active release, where it has one.
        limit: The bound of the value.
        passed: Whether it keeps the bound.
        reason: In words.
    """

    gate: str
    value: float
    active: float | None
    limit: float
    passed: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class Trial:
    """How a bundle did in a process of its own (`service.releases.trial`).

    Attributes:
        golden_difference: Largest difference of any number from the golden tracks.
        engine: What it ran on, and in which precision.
        segment_seconds: Time to encode one segment with sound and picture.
        active_segment_seconds: The same of the active bundle, measured in turns with it.
        peak_bytes: Most memory of the process after it had encoded.
        active_peak_bytes: The same of the active bundle, in a process of its own.
    """

    golden_difference: float
    engine: str
    segment_seconds: float
    active_segment_seconds: float
    peak_bytes: int
    active_peak_bytes: int


def judge(
    limits: GateLimits,
    *,
    trial: Trial,
    num_assets: int,
    num_embedded: int,
    new: Mapping[Modality, Pairs],
    active: Mapping[Modality, Pairs],
    overlap: float | None,
) -> list[Gate]:
    """Compare what was measured with the limits.

    Args:
        limits: What must be kept.
        trial: How the bundle ran.
        num_assets: Assets of the active release.
        num_embedded: Those that the new one has too.
        new: Sampled queries to the new release, by target; empty for a library that is too small.
        active: The same queries to the active release.
        overlap: Mean overlap of the ten best, None where there were no queries.

    Returns:
        Every gate.
    """
    coverage = num_embedded / num_assets if num_assets else 1.0
    gates = [
        Gate(
            gate="golden",
            value=trial.golden_difference,
            active=None,
            limit=float("inf"),
            passed=True,  # a trial that does not reproduce them ends with an error
            reason=f"the golden tracks are reproduced on {trial.engine}",
        ),
        _at_least(
            "coverage", coverage, limits.min_coverage, f"{num_embedded} of {num_assets} assets are embedded"
        ),
    ]
    for target, source in DIRECTIONS.items():
        if target in new:
            gates.append(
                _recall(new[target], active[target], limits.max_recall_drop, f"{source}_to_{target}")
            )
    if overlap is not None:
        words = f"of the ten best assets {overlap:.0%} are those of the active release"
        gates.append(_at_least("overlap", overlap, limits.min_overlap, words))
    gates.append(
        _ratio(
            "latency",
            trial.segment_seconds,
            trial.active_segment_seconds,
            limits.max_latency_ratio,
            "s a segment",
        )
    )
    gates.append(
        _ratio("memory", trial.peak_bytes, trial.active_peak_bytes, limits.max_memory_ratio, "bytes")
    )
    return gates


def measure_overlap(
    new: Index, active: Index, queries: Sequence[tuple[Asset, int]], *, target: Modality
) -> float | None:
    """Search both releases with the same segments, each embedded by its own encoder.

    Args:
        new: Generation of the new release.
        active: Generation of the active release.
        queries: Assets and segments.
        target: What to search.

    Returns:
        Mean share of the best ten that both find, in [0, 1]; None without a query that both can answer.
    """
    shares = []
    for asset, number in queries:
        found = []
        for index in (new, active):
            track = index.get_track(asset.asset_id, index=number, modality=DIRECTIONS[target])
            if track is not None:
                matches = index.search_assets(
                    VectorQuery(
                        track=track,
                        target=target,
                        limit=OVERLAP_RESULTS,
                        prefetch=choose_prefetch(track, limit=OVERLAP_RESULTS),
                    )
                )
                found.append({match.asset_id for match in matches})
        if len(found) == 2 and found[1]:
            shares.append(len(found[0] & found[1]) / len(found[1]))
    return float(np.mean(shares)) if shares else None


def describe_gates(
    gates: Sequence[Gate], trial: Trial, samples: Mapping[str, Mapping[Modality, Pairs]]
) -> dict[str, Any]:
    """What a release keeps of its gates, as JSON values.

    Args:
        gates: From `judge`.
        trial: How the bundle ran.
        samples: Sampled queries by whose they are (`new`, `active`) and target.

    Returns:
        The gates, the reasons of those that failed, and the recalls.
    """
    recalls = {
        who: {
            target: {f"at_{k}": round(pairs.recall(k), 4) for k in (1, 5, 10)}
            for target, pairs in found.items()
        }
        for who, found in samples.items()
    }
    return {
        "passed": all(gate.passed for gate in gates),
        "reasons": [gate.reason for gate in gates if not gate.passed],
        "gates": [
            {**asdict(gate), "limit": None if gate.limit == float("inf") else gate.limit} for gate in gates
        ],
        "recall": recalls,
        "trial": asdict(trial),
    }


def _at_least(name: str, value: float, limit: float, words: str) -> Gate:
    passed = value >= limit
    reason = words if passed else f"{words}; at least {limit:.0%} are needed"
    return Gate(gate=name, value=value, active=None, limit=limit, passed=passed, reason=reason)


def _recall(new: Pairs, active: Pairs, max_drop: float, direction: str) -> Gate:
    value, before = new.recall(1), active.recall(1)
    limit = before - max_drop
    passed = value >= limit
    words = f"R@1 {direction} is {value:.1%}, of the active release {before:.1%} ({new.num_queries} queries)"
    reason = words if passed else f"{words}: a fall of {max_drop:.1%} is allowed"
    return Gate(
        gate=f"recall_{direction}", value=value, active=before, limit=limit, passed=passed, reason=reason
    )


def _ratio(name: str, value: float, before: float, limit: float, unit: str) -> Gate:
    passed = value <= limit * before
    words = f"{name} is {value:.4g} {unit}, of the active release {before:.4g}: {value / before:.2f} x"
    reason = words if passed else f"{words}, {limit:g} x is allowed"
    return Gate(gate=name, value=value, active=before, limit=limit * before, passed=passed, reason=reason)
