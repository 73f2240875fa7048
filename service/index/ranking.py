"""Two-stage search in a shard: candidates by pooled vector, then the diagonal mean over their tracks."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
import qdrant_edge as edge
from numpy.typing import NDArray

from service.index.contract import Modality, SegmentMatch
from service.index.points import TRACK_SUFFIX, to_match
from service.index.schema import EXACT_BELOW

RETRIEVE_POINTS = 64  # tracks come as lists of Python floats, 32 bytes each: 25 MB for 64 at D = 768


def search_shard(
    shard: edge.EdgeShard,
    track: NDArray[np.float32],
    pooled: NDArray[np.float32],
    *,
    target: Modality,
    limit: int,
    prefetch: int,
    condition: edge.Filter | None,
) -> list[SegmentMatch]:
    """Take candidates by pooled vector, rank them by track, read the best and compare moment by moment.

    Args:
        shard: The open shard.
        track: The query, float32, shape (T, D), unit rows.
        pooled: Its pooled vector, float32, shape (D,).
        target: Modality to search.
        limit: Matches at most.
        prefetch: Candidates, at least `limit`.
        condition: What candidates must fulfil, or None.

    Returns:
        Matches, best first.
    """
    is_small = shard.info().points_count <= EXACT_BELOW
    candidates = edge.Prefetch(
        limit=prefetch,
        query=edge.Query.Nearest(to_floats(pooled), using=target),
        params=edge.SearchParams(exact=is_small, hnsw_ef=2 * prefetch),
        filter=condition,
    )
    ranking = edge.QueryRequest(
        limit=prefetch,
        query=edge.Query.Nearest(to_floats(track.ravel()), using=target + TRACK_SUFFIX),
        prefetches=[candidates],
        with_payload=False,
        with_vector=False,
    )
    # the dot of two tracks of unit rows is T × their diagonal mean; ids break ties, so order is stable
    ranked = sorted(shard.query(ranking), key=lambda point: (-point.score, str(point.id)))
    best = [point.id for point in ranked[:limit]]
    matches: list[SegmentMatch] = []
    for first in range(0, len(best), RETRIEVE_POINTS):
        matches += _compare(shard, track, best[first : first + RETRIEVE_POINTS], target)
    return sorted(matches, key=lambda match: (-match.score, match.asset_id, match.start_seconds))


def _compare(
    shard: edge.EdgeShard, track: NDArray[np.float32], ids: Sequence[edge.PointId], target: Modality
) -> list[SegmentMatch]:
    """Read points and their tracks, and take the cosine of each moment with the query's."""
    name = target + TRACK_SUFFIX
    records = shard.retrieve(list(ids), with_payload=True, with_vector=[name])
    stored = np.array([_vector(record, name) for record in records], dtype=np.float32)  # (N, T·D)
    stored = stored.reshape(len(records), *track.shape)  # (N, T, D)
    norms = np.linalg.norm(stored, axis=-1)  # float16 leaves rows a little off unit length
    moments = np.clip(np.einsum("ntd,td->nt", stored, track) / norms, -1.0, 1.0)  # (N, T)
    rows = zip(records, moments.tolist(), strict=True)
    return [to_match(record.payload or {}, row) for record, row in rows]


def to_floats(vector: NDArray[np.float32]) -> list[float]:
    """The vector as Edge reads it fastest: an `array` goes in like a list, twice as fast as NumPy's."""
    floats: Any = array("f", vector.tobytes())
    return floats  # type: ignore[no-any-return]


def _vector(record: edge.Record, name: str) -> array[float]:
    vectors: Any = record.vector
    return array("f", vectors[name])
