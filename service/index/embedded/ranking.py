"""Search in a shard: candidates by pooled vector, ranked by diagonal mean, the best compared in each moment.

    query ── pooled, HNSW ──▶ candidates ── track, dot ──▶ ranking ── copies of tracks ──▶ moments
    query ── pooled, HNSW ──▶ candidates ── rows, scored as they are ──▶ ranking, moments

The second is for shards whose tracks are rows of a codec.

In the first, each float that Edge gives is an object in between: reading a track of 16 × 768 costs .3 ms. So the
moments of the results come from copies of the tracks (`service.index.embedded.tracks`) if these agree with the
ranking. The query is rounded to the float16 of the stored tracks, as Edge does it: moments are off by 1e-4.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import qdrant_edge as edge
from numpy.typing import NDArray

from service.index.contract import SegmentMatch, VectorQuery
from service.index.embedded.forms import TrackForm, read_storage
from service.index.embedded.messages import ShardConfig
from service.index.embedded.packed import PackedTracks, row_of
from service.index.embedded.rows import Truths
from service.index.embedded.tracks import ROWS, TrackCopies, TrackStore
from service.index.layout import TRACK_SUFFIX, VectorLayout
from service.index.payload import AnyOf, Condition, to_conditions, to_match
from service.system.timing import timed

# 200 candidates of 100,000: .9995 of the nearest in .6 ms; with twice the ef or the oversampling .9996
OVERSAMPLING = 1.5
MIN_EF = 64
COMPARED_AT_ONCE = 64  # tracks of 16 × 768 are 3 MB
SCORE_TOLERANCE = 1e-3  # of the lengths of both rows: how far a copy's moment may be from that of the track

Payload = Mapping[str, Any]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Ranked:
    """A point with its score, the diagonal mean, or T times it."""

    id: edge.PointId
    score: float


@dataclass(frozen=True)
class _Found(Ranked):
    """A point with its payload."""

    payload: Payload


class Ranking(Protocol):
    """How candidates are ranked, and the best compared, for one way to store tracks."""

    def rank(
        self, query: VectorQuery, *, hidden: frozenset[str], num_candidates: int
    ) -> tuple[Iterable[Ranked], bool]:
        """Points without those of hidden assets, best first, and whether there were as many candidates as wanted."""

    def compare(self, query: VectorQuery, found: Sequence[_Found]) -> tuple[Floats, Floats, Truths]:
        """Similarities and weights of their moments, (N, T), and whether their tracks are whole."""


class Searcher:
    """Search in an open shard."""

    def __init__(self, shard: edge.EdgeShard, ranking: Ranking) -> None:
        self._shard = shard
        self._ranking = ranking

    def search(self, query: VectorQuery, *, hidden: frozenset[str]) -> list[SegmentMatch]:
        """Find the best segments, best first; those of hidden assets are left out."""
        points, _ = self._ranking.rank(query, hidden=hidden, num_candidates=query.num_candidates)
        best = {point.id: point.score for point in islice(points, query.limit)}
        return self._compare(query, [_Found(id, best[id], payload) for id, payload in self._payloads(best)])

    def search_assets(self, query: VectorQuery, *, hidden: frozenset[str]) -> list[SegmentMatch]:
        """Find the best segment of each of the best assets; if few fill the candidates, ask for twice as many."""
        best: dict[str, _Found] = {}
        num_candidates = query.num_candidates
        while True:
            points, is_full = self._ranking.rank(
                query, hidden=hidden | best.keys(), num_candidates=num_candidates
            )
            ranked = iter(points)
            while len(best) < query.limit and (
                some := {point.id: point.score for point in islice(ranked, query.limit)}
            ):
                payloads = dict(self._payloads(some))
                for id, score in some.items():
                    if len(best) < query.limit:
                        best.setdefault(payloads[id]["asset_id"], _Found(id, score, payloads[id]))
            if len(best) >= query.limit or not is_full:
                return self._compare(query, list(best.values()))
            num_candidates *= 2

    def _payloads(self, ids: Iterable[edge.PointId]) -> Iterator[tuple[edge.PointId, Payload]]:
        for record in self._shard.retrieve(list(ids), with_payload=True, with_vector=False):
            yield record.id, record.payload or {}

    def _compare(self, query: VectorQuery, found: Sequence[_Found]) -> list[SegmentMatch]:
        """Compare each moment of some segments with the same moment of the query."""
        if not found:
            return []
        with timed("rescoring"):
            matches: list[SegmentMatch] = []
            for first in range(0, len(found), COMPARED_AT_ONCE):
                some = found[first : first + COMPARED_AT_ONCE]
                moments, weights, is_whole = self._ranking.compare(query, some)
                payloads = [one.payload for one, is_kept in zip(some, is_whole, strict=True) if is_kept]
                matches += map(to_match, payloads, moments[is_whole].tolist(), weights[is_whole].tolist())
        return sorted(matches, key=lambda match: (-match.score, match.asset_id, match.start_seconds))


class FloatRanking:
    """Ranks by the tracks that Edge has; moments come from the copies that agree with it.

    Up to `exact_below` points, candidates come from comparing with all of them.
    """

    def __init__(
        self, shard: edge.EdgeShard, copies: TrackCopies, *, layout: VectorLayout, exact_below: int
    ) -> None:
        self._shard = shard
        self._layout = layout
        self._copies = copies
        self._exact_below = exact_below

    def rank(
        self, query: VectorQuery, *, hidden: frozenset[str], num_candidates: int
    ) -> tuple[Iterable[Ranked], bool]:
        """See `Ranking.rank`: the dot of two tracks is T × their diagonal mean."""
        nearest = _nearest(query, self._shard, layout=self._layout, exact_below=self._exact_below)
        candidates = edge.Prefetch(
            limit=num_candidates,
            query=nearest.query,
            params=nearest.params(num_candidates),
            filter=select(to_conditions(query.filter), hidden=hidden),
        )
        ranking = edge.QueryRequest(
            limit=num_candidates,
            query=edge.Query.Nearest(to_floats(query.track), using=query.target + TRACK_SUFFIX),
            prefetches=[candidates],
            with_payload=False,
            with_vector=False,
        )
        points = [Ranked(point.id, point.score) for point in self._shard.query(ranking)]
        return in_order(points), len(points) == num_candidates

    def compare(self, query: VectorQuery, found: Sequence[_Found]) -> tuple[Floats, Floats, Truths]:
        """See `Ranking.compare`: from the copies that agree with the scores, else from Edge's vectors."""
        name = query.target + TRACK_SUFFIX
        rounded = query.track.astype(np.float16).astype(np.float32)
        rows = [one.payload.get(ROWS, {}).get(name, -1) for one in found]
        copies, is_there = self._copies.read(rows, shape=rounded.shape)
        moments, weights = self._layout.compare(rounded, copies, target=query.target)
        scores = np.array([one.score for one in found])
        lengths = np.linalg.norm(copies, axis=-1) @ np.linalg.norm(rounded, axis=-1)  # (N,): T for unit rows
        is_right = is_there & (np.abs((moments * weights).sum(axis=1) - scores) < SCORE_TOLERANCE * lengths)
        missing = np.flatnonzero(~is_right).tolist()
        tracks = read_tracks(self._shard, [found[place].id for place in missing], name)
        for place in missing:
            track = tracks[found[place].id].reshape(rounded.shape)
            moments[place], weights[place] = self._layout.compare(rounded, track, target=query.target)
        return moments, weights, np.ones(len(found), dtype=np.bool_)


class PackedRanking:
    """Ranks by the rows of the shard: Edge gives candidates only. A damaged row is no result, and is logged.

    Up to `exact_below` points, candidates come from comparing with all of them.
    """

    def __init__(
        self, shard: edge.EdgeShard, tracks: PackedTracks, *, layout: VectorLayout, exact_below: int
    ) -> None:
        self._shard = shard
        self._layout = layout
        self._tracks = tracks
        self._exact_below = exact_below

    def rank(
        self, query: VectorQuery, *, hidden: frozenset[str], num_candidates: int
    ) -> tuple[Iterable[Ranked], bool]:
        """See `Ranking.rank`."""
        nearest = _nearest(query, self._shard, layout=self._layout, exact_below=self._exact_below)
        candidates = self._shard.query(
            edge.QueryRequest(
                limit=num_candidates,
                query=nearest.query,
                params=nearest.params(num_candidates),
                filter=select(to_conditions(query.filter), hidden=hidden),
                with_payload=False,
                with_vector=False,
            )
        )
        ids = [candidate.id for candidate in candidates]
        with timed("rescoring"):
            numbers = self._tracks.find_rows(query.target, self._shard, ids)
            rows, is_own = self._tracks.read(query.target, numbers, ids, checks_content=False)
            scores = self._tracks.codec(query.target).score(query.track, rows)
        best = np.argsort(-scores, kind="stable").tolist()
        ranked = (Ranked(ids[place], float(scores[place])) for place in best if is_own[place])
        return in_order(ranked), len(candidates) == num_candidates

    def compare(self, query: VectorQuery, found: Sequence[_Found]) -> tuple[Floats, Floats, Truths]:
        """See `Ranking.compare`."""
        codec = self._tracks.codec(query.target)
        numbers = [row_of(one.payload, query.target) for one in found]
        rows, is_whole = self._tracks.read(query.target, numbers, [one.id for one in found])
        moments = codec.compare(query.track, rows)
        weights = np.ones_like(moments)
        if self._layout.is_weighed(query.target):
            weights = codec.lengths(rows)
            moments = moments / weights.clip(1e-12)
        if self._layout.similarity == "cosine":
            moments = np.clip(moments, -1.0, 1.0)
        return moments, weights, is_whole


@dataclass(frozen=True)
class _Nearest:
    """A search for the nearest pooled vectors."""

    query: edge.Query
    is_exact: bool

    def params(self, num_candidates: int) -> edge.SearchParams:
        return edge.SearchParams(
            exact=self.is_exact,
            hnsw_ef=max(MIN_EF, num_candidates),
            quantization=edge.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING),
        )


def _nearest(
    query: VectorQuery, shard: edge.EdgeShard, *, layout: VectorLayout, exact_below: int
) -> _Nearest:
    pooled = to_floats(layout.pool(query.track))
    return _Nearest(
        query=edge.Query.Nearest(pooled, using=query.target),
        is_exact=shard.info().points_count <= exact_below,
    )


def open_tracks(shard: edge.EdgeShard, folder: Path, config: ShardConfig) -> tuple[TrackStore, Ranking]:
    """Open the tracks of an open shard in the form that its folder says, and what ranks by them."""
    form = TrackForm(config.layout, read_storage(folder))
    if form.storage == "float16":
        copies = TrackCopies(folder, config.layout)
        return copies, FloatRanking(shard, copies, layout=config.layout, exact_below=config.exact_below)
    packed = PackedTracks(folder, form)
    return packed, PackedRanking(shard, packed, layout=config.layout, exact_below=config.exact_below)


def read_tracks(
    shard: edge.EdgeShard, ids: Sequence[edge.PointId], name: str
) -> dict[edge.PointId, NDArray[np.float32]]:
    """Read a vector, by its name, of some points that have it; float32."""
    found = {}
    for record in shard.retrieve(list(ids), with_payload=False, with_vector=[name]) if ids else ():
        vectors: Any = record.vector
        numbers = vectors[name]
        packed = struct.pack(f"{len(numbers)}f", *numbers)  # three times as fast as NumPy reads a list
        found[record.id] = np.frombuffer(packed, dtype=np.float32)
    return found


def in_order(points: Iterable[Ranked]) -> Iterator[Ranked]:
    """Ranked points, those of equal scores in the order of their ids: every search gives the same answer."""
    for _, group in groupby(points, key=lambda point: point.score):
        yield from sorted(group, key=lambda point: str(point.id))


def select(conditions: Sequence[Condition], *, hidden: Iterable[str] = ()) -> edge.Filter | None:
    """A filter of Edge without the points of hidden assets; None if every point would pass."""
    must: list[edge.ConditionType] = [*to_edge(conditions)]
    must_not: list[edge.ConditionType] = []
    left_out = sorted(hidden)
    if left_out:
        must_not.append(edge.FieldCondition("asset_id", match=edge.MatchAny(left_out)))
    return edge.Filter(must=must, must_not=must_not) if must or must_not else None


def to_edge(conditions: Sequence[Condition]) -> list[edge.ConditionType]:
    """The conditions as Edge takes them."""
    found: list[edge.ConditionType] = []
    for condition in conditions:
        if isinstance(condition, AnyOf):
            match = edge.MatchAny(list(condition.words))
            found.append(edge.FieldCondition(condition.key, match=match))
        else:
            bounds = edge.RangeFloat(gte=condition.at_least, lte=condition.at_most, lt=condition.below)
            either = [edge.FieldCondition(key, range=bounds) for key in condition.keys]
            found.append(either[0] if len(either) == 1 else edge.Filter(should=[*either]))
    return found


def to_floats(vector: NDArray[np.float32]) -> list[float]:
    """The numbers as Edge reads them fastest: an `array` goes in like a list, twice as fast as NumPy's."""
    floats: Any = array("f", vector.tobytes())
    return floats  # type: ignore[no-any-return]
