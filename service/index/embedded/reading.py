"""Reading stored points out of an open shard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import qdrant_edge as edge

from service.index.embedded.changes import of_asset
from service.index.embedded.tracks import ROWS, TrackStore
from service.index.layout import TRACK_SUFFIX
from service.index.points import StoredPoint

SCROLL_POINTS = 10_000
IS_HEAD = edge.FieldCondition("index", match=edge.MatchValue(0))


def read_heads(
    shard: edge.EdgeShard,
    conditions: Sequence[edge.ConditionType],
    *,
    limit: int,
    offset: edge.PointId | None = None,
) -> tuple[list[Mapping[str, Any]], edge.PointId | None]:
    """Payloads of heads that meet some conditions, and the offset of the next page."""
    chosen = edge.Filter(must=[IS_HEAD, *conditions])
    request = edge.ScrollRequest(
        offset=offset, limit=limit, filter=chosen, with_payload=True, with_vector=False
    )
    records, following = shard.scroll(request)
    return [record.payload or {} for record in records], following


def iter_heads(shard: edge.EdgeShard) -> Iterator[Mapping[str, Any]]:
    """Payloads of all heads."""
    offset: edge.PointId | None = None
    while True:
        heads, offset = read_heads(shard, [], limit=SCROLL_POINTS, offset=offset)
        yield from heads
        if offset is None:
            return


def read_ids(shard: edge.EdgeShard, asset_id: str) -> set[str]:
    """The ids of all points of an asset."""
    request = edge.ScrollRequest(
        limit=shard.info().points_count + 1,
        filter=of_asset(asset_id),
        with_payload=False,
        with_vector=False,
    )
    return {str(record.id) for record in shard.scroll(request)[0]}


def read_segments(
    shard: edge.EdgeShard,
    tracks: TrackStore,
    asset_id: str,
    first_index: int,
    limit: int,
    names: Sequence[str],
) -> list[StoredPoint]:
    """Points of an asset in order, with the named vectors."""
    later = edge.FieldCondition("index", range=edge.RangeFloat(gte=first_index))
    request = edge.ScrollRequest(
        limit=shard.info().points_count + 1,
        filter=edge.Filter(must=[edge.FieldCondition("asset_id", match=edge.MatchValue(asset_id)), later]),
        with_payload=["index"],
        with_vector=False,
    )
    places = sorted(((r.payload or {})["index"], str(r.id)) for r in shard.scroll(request)[0])
    ids: list[edge.PointId] = [point_id for _, point_id in places[:limit]]
    # Pooled vectors are a sixteenth of the floats, and tell whether a copy is the track.
    pooled = [name.removesuffix(TRACK_SUFFIX) for name in names]
    found = tracks.from_files(_retrieve(shard, ids, in_engine(tracks, pooled)), names)
    others = [point_id for point_id, point in zip(ids, found, strict=True) if point is None]
    rest = iter(tracks.to_points(_retrieve(shard, others, in_engine(tracks, names)), names))
    return [point or next(rest) for point in found]


def _retrieve(
    shard: edge.EdgeShard, ids: Sequence[edge.PointId], names: list[str] | bool
) -> list[edge.Record]:
    """Stored points in the order of their ids."""
    records = {
        str(record.id): record for record in shard.retrieve(list(ids), with_payload=True, with_vector=names)
    }
    return [records[str(point_id)] for point_id in ids]


def in_engine(tracks: TrackStore, names: Sequence[str]) -> list[str] | bool:
    """Those of some vectors that are read from Edge."""
    return False if tracks.holds_alone else list(names)


def read_places(
    shard: edge.EdgeShard, tracks: TrackStore, asset_ids: Sequence[str], index: int, name: str
) -> list[StoredPoint]:
    """Points at `index` of some assets, of those that have the named vector there, with it and the asset's id."""
    if not asset_ids:
        return []
    wanted: list[edge.ConditionType] = [
        edge.FieldCondition("asset_id", match=edge.MatchAny(list(asset_ids))),
        edge.FieldCondition("index", match=edge.MatchValue(index)),
        edge.HasVectorCondition(name.removesuffix(TRACK_SUFFIX)),
    ]
    request = edge.ScrollRequest(
        limit=len(asset_ids),
        filter=edge.Filter(must=wanted),
        with_payload=["asset_id", ROWS],
        with_vector=in_engine(tracks, [name]),
    )
    return tracks.to_points(shard.scroll(request)[0], [name])
