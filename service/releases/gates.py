"""Whether a new release may be activated: measured beside the active one, on the library's own pairs.

A failed gate says why in words. All gates are measured, passed or not, so that two releases can be compared.

    golden      tracks of the bundle's own clip are those of its export, in the precision that will serve
    coverage    share of the active release's assets that the new one has embedded
    recall      zero-shot R@1 of sampled assets in both directions, against the active release on the same queries
    overlap     mean share of the ten best assets that both releases find for the same query
    latency     time to encode one segment, against the active release, in turns
    memory      peak of a process that loads the bundle and encodes, against the active release
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from service.index.contract import Asset, Index, VectorQuery
from service.releases.documents import Gate, Gates, Recall, Side, Trial
from service.search.calibration import DIRECTIONS, Pairs
from service.search.prefetch import choose_prefetch
from service.system.modality import Modality

OVERLAP_RESULTS = 10


@dataclass(frozen=True, kw_only=True)
class GateLimits:
    """What a release must keep: shares in [0, 1], and multiples of what the active release takes."""

    max_recall_drop: float = 0.02
    min_overlap: float = 0.1
    min_coverage: float = 0.99
    max_latency_ratio: float = 2.0
    max_memory_ratio: float = 2.0


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
    """Compare what was measured with the limits, and return every gate.

    `num_assets` is that of the active release. `new` and `active` hold the same sampled queries to both releases by
    target, and are empty if the library is too small; `overlap` is then None.
    """
    coverage = num_embedded / num_assets if num_assets else 1.0
    covered = f"{num_embedded} of {num_assets} assets are embedded"
    gates = [
        Gate(
            gate="golden",
            value=trial["golden_difference"],
            active=None,
            limit=None,
            passed=True,  # a trial that does not reproduce them ends with an error
            reason=f"the golden tracks are reproduced on {trial['engine']}",
        ),
        _at_least("coverage", coverage, limits.min_coverage, covered),
    ]
    for target, source in DIRECTIONS.items():
        if target in new:
            direction = f"{source}_to_{target}"
            gates.append(_recall(new[target], active[target], limits.max_recall_drop, direction))
    if overlap is not None:
        words = f"of the ten best assets {overlap:.0%} are those of the active release"
        gates.append(_at_least("overlap", overlap, limits.min_overlap, words))
    now, before = trial["segment_seconds"], trial["active_segment_seconds"]
    gates.append(_ratio("latency", now, before, limits.max_latency_ratio, "s a segment"))
    now, before = trial["peak_bytes"], trial["active_peak_bytes"]
    gates.append(_ratio("memory", now, before, limits.max_memory_ratio, "bytes"))
    return gates


def measure_overlap(
    new: Index, active: Index, queries: Sequence[tuple[Asset, int]], *, target: Modality
) -> float | None:
    """Mean share of the ten best that both releases find for the same segments, in [0, 1]; None without any query."""
    shares = []
    for asset, number in queries:
        found = []
        for index in (new, active):
            track = index.get_track(asset.asset_id, index=number, modality=DIRECTIONS[target])
            if track is not None:
                prefetch = choose_prefetch(track, limit=OVERLAP_RESULTS)
                query = VectorQuery(track=track, target=target, limit=OVERLAP_RESULTS, prefetch=prefetch)
                found.append({match.asset_id for match in index.search_assets(query)})
        if len(found) == 2 and found[1]:
            shares.append(len(found[0] & found[1]) / len(found[1]))
    return float(np.mean(shares)) if shares else None


def describe_gates(
    gates: list[Gate], trial: Trial, samples: Mapping[Side, Mapping[Modality, Pairs]]
) -> Gates:
    """What a release keeps of its gates; the samples are queries to both releases, by target."""
    return {
        "passed": all(gate["passed"] for gate in gates),
        "reasons": [gate["reason"] for gate in gates if not gate["passed"]],
        "gates": gates,
        "recall": {
            side: {target: _describe_recall(pairs) for target, pairs in found.items()}
            for side, found in samples.items()
        },
        "trial": trial,
    }


def _describe_recall(pairs: Pairs) -> Recall:
    return {
        "at_1": round(pairs.recall(1), 4),
        "at_5": round(pairs.recall(5), 4),
        "at_10": round(pairs.recall(10), 4),
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
