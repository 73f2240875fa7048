"""Search in a shard: candidates by pooled vector, ranked by diagonal mean, the best compared in each moment.

    query ── pooled, HNSW ──▶ 200 candidates ── track, dot ──▶ ranking ── tracks, or 16 masked queries ──▶ moments

Each float that the engine gives or takes is an object in between: reading a track of 16 × 768 costs .3 ms, so a few
are read and compared here; for many, sixteen queries that are zero but for one moment cost 5 ms whatever their number.
Queries are rounded to the float16 of the stored tracks either way, so both give the same: moments are off by 1e-4.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

import numpy as np
import qdrant_edge as edge
from numpy.typing import NDArray

from service.index.contract import Modality, SegmentMatch
from service.index.payload import AnyOf, Condition, to_match
from service.index.points import TRACK_SUFFIX
from service.timing import timed

# 200 candidates of 100,000: .9995 of the nearest in .6 ms; with twice the ef or the oversampling .9996
OVERSAMPLING = 1.5
MIN_EF = 64
MAX_READ_TRACKS = 16


@dataclass(frozen=True, kw_only=True)
class Query:
    """What to search for, and where.

    Attributes:
        track: float32, shape (T, D), unit rows.
        pooled: Its pooled vector, float32, shape (D,).
        target: Modality to compare with.
        prefetch: How many candidates the pooled vectors give.
        is_exact: Whether to find them by comparing with every point.
        hidden: Ids of assets that must not be found.
        conditions: What every candidate must fulfil.
    """

    track: NDArray[np.float32]
    pooled: NDArray[np.float32]
    target: Modality
    prefetch: int
    is_exact: bool
    hidden: frozenset[str] = frozenset()
    conditions: Sequence[Condition] = ()


def search_segments(shard: edge.EdgeShard, query: Query, limit: int) -> list[SegmentMatch]:
    """Find the best segments.

    Args:
        shard: The open shard.
        query: What to search for.
        limit: Matches at most.

    Returns:
        Matches, best first.
    """
    points = rank(shard, query, hidden=query.hidden)
    return _compare(shard, query, list(islice(_in_order(points), limit)))


def search_assets(shard: edge.EdgeShard, query: Query, limit: int) -> list[SegmentMatch]:
    """Find the best segment of each of the best assets.

    A long asset may fill all candidates. Then the next round asks for those of other assets, twice as many.

    Args:
        shard: The open shard.
        query: What to search for.
        limit: Assets at most.

    Returns:
        One match per asset, best first.
    """
    best: dict[str, edge.PointId] = {}
    num_candidates = query.prefetch
    while True:
        points = rank(shard, query, hidden=query.hidden | best.keys(), num_candidates=num_candidates)
        ids = _in_order(points)
        while len(best) < limit and (some := list(islice(ids, limit))):
            records = shard.retrieve(some, with_payload=["asset_id"], with_vector=False)
            asset_ids = {record.id: (record.payload or {})["asset_id"] for record in records}
            for point_id in some:
                best.setdefault(asset_ids[point_id], point_id)
        if len(best) >= limit or len(points) < num_candidates:
            return _compare(shard, query, list(best.values()))[:limit]
        num_candidates *= 2


def rank(
    shard: edge.EdgeShard, query: Query, *, hidden: Iterable[str], num_candidates: int | None = None
) -> list[edge.ScoredPoint]:
    """Take candidates by pooled vector and order them by diagonal mean.

    Args:
        shard: The open shard.
        query: What to search for.
        hidden: Ids of assets that must not be found.
        num_candidates: How many candidates, None for those of the query.

    Returns:
        The candidates, best first, without payload.
    """
    limit = num_candidates or query.prefetch
    candidates = edge.Prefetch(
        limit=limit,
        query=edge.Query.Nearest(to_floats(query.pooled), using=query.target),
        params=edge.SearchParams(
            exact=query.is_exact,
            hnsw_ef=max(MIN_EF, limit),
            quantization=edge.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING),
        ),
        filter=select(query.conditions, hidden=hidden),
    )
    ranking = edge.QueryRequest(
        limit=limit,
        query=edge.Query.Nearest(to_floats(query.track), using=query.target + TRACK_SUFFIX),
        prefetches=[candidates],
        with_payload=False,
        with_vector=False,
    )
    return shard.query(ranking)  # the dot of two tracks of unit rows is T × their diagonal mean


def _in_order(points: Iterable[edge.ScoredPoint]) -> Iterator[edge.PointId]:
    """Ids of ranked points, equal ones in the order of their ids: every search gives the same answer."""
    for _, group in groupby(points, key=lambda point: point.score):
        yield from sorted((point.id for point in group), key=str)


def _compare(shard: edge.EdgeShard, query: Query, ids: Sequence[edge.PointId]) -> list[SegmentMatch]:
    """Take the cosine of each moment of some segments with the same moment of the query."""
    if not ids:
        return []
    with timed("rescoring"):
        return _compare_moments(shard, query, ids)


def _compare_moments(shard: edge.EdgeShard, query: Query, ids: Sequence[edge.PointId]) -> list[SegmentMatch]:
    find_moments = _mask_moments if len(ids) > MAX_READ_TRACKS else _read_moments
    moments = find_moments(shard, query, ids)
    records = shard.retrieve(list(ids), with_payload=True, with_vector=False)
    matches = [to_match(record.payload or {}, moments[record.id]) for record in records]
    return sorted(matches, key=lambda match: (-match.score, match.asset_id, match.start_seconds))


def _read_moments(
    shard: edge.EdgeShard, query: Query, ids: Sequence[edge.PointId]
) -> dict[edge.PointId, list[float]]:
    """Cosines of the moments of a few segments: their tracks are read and compared here."""
    name = query.target + TRACK_SUFFIX
    rounded = query.track.astype(np.float16).astype(np.float32)
    moments = {}
    for record in shard.retrieve(list(ids), with_payload=False, with_vector=[name]):
        vectors: Any = record.vector
        numbers = vectors[name]
        packed = struct.pack(f"{len(numbers)}f", *numbers)  # three times as fast as NumPy reads a list
        track = np.frombuffer(packed, dtype=np.float32).reshape(rounded.shape)
        cosines = np.einsum("td,td->t", rounded, track)
        moments[record.id] = [float(cosine) for cosine in np.clip(cosines, -1.0, 1.0)]
    return moments


def _mask_moments(
    shard: edge.EdgeShard, query: Query, ids: Sequence[edge.PointId]
) -> dict[edge.PointId, list[float]]:
    """Cosines of the moments of many segments: as many queries as there are moments, each of one alone."""
    num_moments = len(query.track)
    chosen = edge.Filter(must=[edge.HasIdCondition(set(ids))])
    requests = []
    for moment in range(num_moments):
        masked = np.zeros_like(query.track)
        masked[moment] = query.track[moment]
        nearest = edge.Query.Nearest(to_floats(masked), using=query.target + TRACK_SUFFIX)
        requests.append(
            edge.QueryRequest(
                limit=len(ids), query=nearest, filter=chosen, with_payload=False, with_vector=False
            )
        )
    moments: dict[edge.PointId, list[float]] = {point_id: [0.0] * num_moments for point_id in ids}
    for moment, points in enumerate(shard.query_batch(edge.QueryBatchRequest(requests))):
        for point in points:
            moments[point.id][moment] = min(max(point.score, -1.0), 1.0)
    return moments


def select(conditions: Sequence[Condition], *, hidden: Iterable[str] = ()) -> edge.Filter | None:
    """A filter of the engine.

    Args:
        conditions: What a point must fulfil.
        hidden: Ids of assets to leave out.

    Returns:
        The filter, None where it would hold for every point.
    """
    must: list[edge.ConditionType] = [*to_edge(conditions)]
    must_not: list[edge.ConditionType] = []
    left_out = sorted(hidden)
    if left_out:
        must_not.append(edge.FieldCondition("asset_id", match=edge.MatchAny(left_out)))
    return edge.Filter(must=must, must_not=must_not) if must or must_not else None


def to_edge(conditions: Iterable[Condition]) -> list[edge.FieldCondition]:
    """The conditions as the engine takes them."""
    found = []
    for condition in conditions:
        if isinstance(condition, AnyOf):
            match = edge.MatchAny(list(condition.words))
            found.append(edge.FieldCondition(condition.key, match=match))
        else:
            bounds = edge.RangeFloat(gte=condition.at_least, lte=condition.at_most, lt=condition.below)
            found.append(edge.FieldCondition(condition.key, range=bounds))
    return found


def to_floats(vector: NDArray[np.float32]) -> list[float]:
    """The numbers as Edge reads them fastest: an `array` goes in like a list, twice as fast as NumPy's."""
    floats: Any = array("f", vector.tobytes())
    return floats  # type: ignore[no-any-return]
