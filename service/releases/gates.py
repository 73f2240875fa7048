"""Whether a new release may be activated: measured beside the active one, on the library's own pairs.

A failed gate says why in words. All gates are measured, passed or not, so that two releases can be compared.

    golden      tracks of the bundle's own clip are those of its export, in the precision that will serve
    coverage    share of the active release's assets that the new one has embedded
    recall      how early sampled assets find their own other half, in each direction, against the active release
    overlap     mean share of the ten best assets that both releases find for the same query
    latency     time to encode one segment, against the active release, in turns
    memory      peak of a process that loads the bundle and encodes, against the active release

The last two are known before the library is embedded, so a release that is too dear is refused then, unless its cost
is meant (`Cost`).

Recall is a paired test on the same queries, because two of 94 are noise: of R@1, R@10 and the rank itself the queries
that are answered better and worse are counted, as McNemar (1947) and the sign test do. The net share has the interval
of Agresti and Min (2005), which holds for few pairs too; the three hold together (Bonferroni). Recall fell if the share
is below what is allowed and the whole interval is below zero. If it is not, and a greater fall than is allowed lies
within the interval, there are too few pairs to tell: that is said and refuses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle.bundle import Bundle
from service.index.contract import Asset, Index, VectorQuery
from service.releases.cost import Cost, judge_cost
from service.releases.documents import Gate, Gates, Recall, Side, Trial, Verdict
from service.releases.switch import OpenRelease
from service.search.calibration import Pairs
from service.search.prefetch import choose_prefetch
from service.search.sources import check_comparable
from service.system.modality import OPPOSITE, Modality, NotComparable, NotEmbedded, name_direction
from service.system.settings import Settings

OVERLAP_RESULTS = 10
NUM_RANKS = 100
"""Ranks that are told apart; those above count as the next."""
Z = NormalDist().inv_cdf(1 - 0.05 / 2 / 3)
"""Three intervals that hold together with 95 %."""


Query = tuple[Asset, float]
"""A segment to search with: its asset, and where it starts in seconds if every segment before it is stored."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """The index of a release, and the bundle that made it."""

    bundle: Bundle
    index: Index

    @classmethod
    def of(cls, release: OpenRelease) -> Generation:
        """That of an open release."""
        return cls(bundle=release.bundle, index=release.index)

    @property
    def segment_seconds(self) -> float:
        """Length of a segment."""
        return self.bundle.manifest.clip_spec.segment_seconds

    def why_not(self) -> str | None:
        """Why sound and picture cannot be compared here; None if they can."""
        try:
            check_comparable(self.bundle, "audio", "video")
        except (NotEmbedded, NotComparable) as exc:
            return str(exc).removeprefix("the active bundle ")
        return None

    def number(self, queries: Sequence[Query]) -> list[tuple[Asset, int]]:
        """The numbers of the segments: releases may cut files into segments of other lengths."""
        return [(asset, int(seconds / self.segment_seconds + 1e-6)) for asset, seconds in queries]


def judge(
    limits: Settings,
    *,
    trial: Trial,
    num_assets: int,
    num_embedded: int,
    new: Mapping[Modality, Pairs],
    active: Mapping[Modality, Pairs],
    overlap: float | None,
    is_of_one_family: bool = True,
    cost: Cost = "limited",
) -> list[Gate]:
    """Compare what was measured with the limits that the settings have, and return every gate.

    `num_assets` is that of the active release. `new` and `active` hold the same sampled queries to both releases by
    target, and are empty if the library is too small; `overlap` is then None. An encoder of another family may find
    others: its overlap has no limit.
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
        _at_least("coverage", coverage, limits.release_min_coverage, covered),
    ]
    allowed, asked = (
        limits.release_max_recall_drop,
        [t for t in OPPOSITE if t in new and t in active and new[t].num_queries],
    )
    gates += [_recall(new[target], active[target], allowed) for target in asked]
    if overlap is not None:
        words = f"of the ten best assets {overlap:.0%} are those of the active release"
        gate = _at_least("overlap", overlap, limits.release_min_overlap if is_of_one_family else 0.0, words)
        gates.append(gate if is_of_one_family else {**gate, "limit": None})
    return gates + judge_cost(limits, trial, cost=cost)


def measure_overlap(
    new: Generation, active: Generation, queries: Sequence[Query], *, target: Modality
) -> float | None:
    """Mean share of the ten best that both releases find for the same segments, in [0, 1]; None without any query."""
    shares = []
    for both in zip(new.number(queries), active.number(queries), strict=True):
        found = []
        for generation, (asset, number) in zip((new, active), both, strict=True):
            index, source = generation.index, OPPOSITE[target]
            stored = index.get_track(asset.asset_id, index=number, modality=source)
            if stored is not None:
                track = index.layout.to_query(stored, source)
                prefetch = choose_prefetch(track, limit=OVERLAP_RESULTS)
                query = VectorQuery(track=track, target=target, limit=OVERLAP_RESULTS, prefetch=prefetch)
                found.append({match.asset_id for match in index.search_assets(query)})
        if len(found) == 2 and found[1]:
            shares.append(len(found[0] & found[1]) / len(found[1]))
    return float(np.mean(shares)) if shares else None


def describe_gates(
    gates: list[Gate],
    trial: Trial,
    samples: Mapping[Side, Mapping[Modality, Pairs]],
    undecided: Sequence[str] = (),
) -> Gates:
    """What a release keeps of its gates; the samples are queries to both releases, by target."""
    return {
        "passed": all(gate["passed"] for gate in gates),
        "reasons": [gate["reason"] for gate in gates if not gate["passed"]],
        "undecided": [*undecided, *(g["reason"] for g in gates if g.get("verdict") == "cannot_tell")],
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
        "median_rank": float(np.median(_ranks(pairs)[pairs.ranks >= 0]))
        if pairs.num_queries
        else NUM_RANKS + 1,
    }


def _at_least(name: str, value: float, limit: float, words: str) -> Gate:
    passed = value >= limit
    reason = words if passed else f"{words}; at least {limit:.0%} are needed"
    return Gate(gate=name, value=value, active=None, limit=limit, passed=passed, reason=reason)


def compare_paired(new: NDArray[Any], active: NDArray[Any]) -> tuple[float, float, float]:
    """Compare two answers to the same queries, smaller is better, shape (N,): Agresti and Min, 2005, section 5.

    Returns the share of the queries that are answered better less the share answered worse, and its interval.
    """
    better, worse = int((new < active).sum()), int((new > active).sum())
    total, middle = len(new) + 2, (better - worse) / (len(new) + 2)
    reach = Z * ((better + worse + 1) / total - middle**2) ** 0.5 / total**0.5 if better + worse else 0.0
    return (better - worse) / len(new), max(middle - reach, -1.0), min(middle + reach, 1.0)


def _ranks(pairs: Pairs) -> NDArray[np.int64]:
    """Ranks of the own assets, one for each query; -1 if it has no track."""
    return np.where(pairs.ranks == 0, NUM_RANKS + 1, pairs.ranks)


def _show_rank(rank: float) -> str:
    return f"above {NUM_RANKS}" if rank > NUM_RANKS else f"{rank:g}"


def _recall(new: Pairs, active: Pairs, max_drop: float) -> Gate:
    both = (new.ranks >= 0) & (active.ranks >= 0)
    now, before = _ranks(new)[both], _ranks(active)[both]
    at = {k: (float((now <= k).mean()), float((before <= k).mean())) for k in (1, 10)}
    median, median_before = float(np.median(now)), float(np.median(before))
    changes = {f"R@{k}": compare_paired(now > k, before > k) for k in at}
    is_unsure = any(low < -max_drop for _, low, _ in changes.values())
    changes["median rank"] = compare_paired(now, before)
    shown = [f"{share:.1%}, was {was:.1%} (change" for share, was in at.values()]
    shown.append(f"{_show_rank(median)}, was {_show_rank(median_before)} (queries ranked better less worse")
    words = [
        f"{name} {figures} {net:+.1%}, 95 % interval {low:+.1%} to {high:+.1%})"
        for (name, (net, low, high)), figures in zip(changes.items(), shown, strict=True)
    ]
    if median <= median_before:
        del changes["median rank"]
    fell = [name for name, (net, _, high) in changes.items() if net < -max_drop and high < 0]
    verdict: Verdict = "failed" if fell else "cannot_tell" if is_unsure else "passed"
    if fell:
        words.append(f"{' and '.join(fell)} fell, and a fall of {max_drop:.1%} is allowed")
    elif is_unsure:
        words.append(f"too few queries to tell whether recall fell by more than the {max_drop:.1%} allowed")
    return Gate(
        gate=f"recall_{OPPOSITE[new.target]}_to_{new.target}",
        value=at[1][0],
        active=at[1][1],
        limit=at[1][1] - max_drop,
        passed=not fell,
        verdict=verdict,
        reason=f"{name_direction(new.target)}, {len(now)} queries: {'; '.join(words)}",
    )
