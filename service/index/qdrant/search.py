"""Search on a Qdrant server: candidates by pooled vector, ranked by diagonal mean, compared in each moment.

    query ── pooled, HNSW, int8 and again in float32 ──▶ candidates ── track, dot ──▶ ranking   on the server
    the best few ── float16 tracks ──▶ moments                                                  here, with NumPy

Points of an asset that is being written are marked, and count once its head is there. So the heads of the marked points
in a ranking are looked up; mostly there are no marked points, and no lookup.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from service.index.contract import SegmentMatch, VectorQuery
from service.index.layout import TRACK_SUFFIX, VectorLayout
from service.index.payload import to_match
from service.index.qdrant.points import (
    UNFINISHED,
    Points,
    is_any,
    is_value,
    read_vector,
)

OVERSAMPLING = 3.0


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    point_id: str
    asset_id: str
    start_seconds: float
    score: float
    is_unfinished: bool


def search_segments(points: Points, query: VectorQuery, layout: VectorLayout) -> list[SegmentMatch]:
    """Find the best segments, best first."""
    ranked, _ = _rank(points, query, layout, set(), query.num_candidates)
    return _compare(points, query, layout, [candidate.point_id for candidate in ranked[: query.limit]])


def search_assets(points: Points, query: VectorQuery, layout: VectorLayout) -> list[SegmentMatch]:
    """Find the best segment of each of the best assets; if few fill the candidates, ask for twice as many."""
    best: dict[str, str] = {}
    num_candidates = query.num_candidates
    while True:
        ranked, is_all = _rank(points, query, layout, set(best), num_candidates)
        for candidate in ranked:
            best.setdefault(candidate.asset_id, candidate.point_id)
            if len(best) == query.limit:
                break
        if len(best) == query.limit or is_all:
            return _compare(points, query, layout, list(best.values()))
        num_candidates *= 2


def without_head(points: Points, asset_ids: Collection[str]) -> set[str]:
    """Those of the assets that have no head: they do not exist yet."""
    if not asset_ids:
        return set()
    heads = points.scroll([is_any("asset_id", asset_ids), is_value("index", 0)], keys=["asset_id"])
    return set(asset_ids) - {(head.payload or {})["asset_id"] for head in heads}


def _rank(
    points: Points, query: VectorQuery, layout: VectorLayout, hidden: set[str], num_candidates: int
) -> tuple[list[_Candidate], bool]:
    """Candidates of visible assets in the order of their scores, and whether there are no others."""
    while True:
        candidates = _find(points, query, layout.pool(query.track), hidden, num_candidates)
        headless = without_head(points, {c.asset_id for c in candidates if c.is_unfinished})
        if not headless:
            ordered = sorted(candidates, key=lambda c: (-c.score, c.asset_id, c.start_seconds))
            return ordered, len(candidates) < num_candidates
        hidden = hidden | headless


def _find(
    points: Points, query: VectorQuery, pooled: NDArray[np.float32], hidden: Collection[str], limit: int
) -> list[_Candidate]:
    prefetch = models.Prefetch(
        query=pooled.tolist(),
        using=query.target,
        limit=limit,
        filter=models.Filter(
            must=points.to_conditions(query.filter), must_not=[is_any("asset_id", hidden)] if hidden else None
        ),
        params=models.SearchParams(
            hnsw_ef=2 * limit,
            quantization=models.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING),
        ),
    )
    found = points.query(
        prefetch=prefetch,
        vector=query.track,
        using=query.target + TRACK_SUFFIX,
        limit=limit,
        keys=["asset_id", "start_seconds", UNFINISHED],
    )
    return [_to_candidate(point) for point in found]


def _compare(
    points: Points, query: VectorQuery, layout: VectorLayout, point_ids: Sequence[str]
) -> list[SegmentMatch]:
    """Compare each moment of some segments with the same moment of the query."""
    name = query.target + TRACK_SUFFIX
    matches = []
    for record in points.retrieve(point_ids, vectors=[name]):
        track = read_vector(record, name, shape=query.track.shape)
        if track is not None and record.payload:  # else it was deleted or rewritten in between
            moments, weights = layout.compare(query.track, track, target=query.target)
            matches.append(to_match(record.payload, moments.tolist(), weights.tolist()))
    return sorted(matches, key=lambda match: (-match.score, match.asset_id, match.start_seconds))


def _to_candidate(point: models.ScoredPoint) -> _Candidate:
    payload = point.payload or {}
    return _Candidate(
        point_id=str(point.id),
        asset_id=payload["asset_id"],
        start_seconds=payload["start_seconds"],
        score=point.score,
        is_unfinished=bool(payload.get(UNFINISHED)),
    )
