"""Changes to the points of a shard, as values: applied to one shard, kept in files, replayed on another.

    log = ChangeLog(folder)
    apply_change(shard, tracks, change)
    log.add(change)
    path = log.roll()
    replay(other_shard, other_tracks, path)

A change holds all that its points become, so it may be applied again, or to points that have it already, as long as
the order is kept. That is why a shard can be copied page by page while it is written to: a page that was read goes
into the same log as the writes before and after it (`service.index.embedded.aside`).
"""

from __future__ import annotations

import pickle
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import qdrant_edge as edge

from service.index.embedded.ranking import to_floats
from service.index.embedded.tracks import ROWS, RowNumbers, TrackStore
from service.index.layout import TRACK_NAMES
from service.index.points import StoredPoint
from service.system.modality import MODALITIES

UPSERT_POINTS = 64


@dataclass(frozen=True, kw_only=True)
class Upsert:
    """Points are stored; they replace those with the same ids."""

    points: Sequence[StoredPoint]


@dataclass(frozen=True, kw_only=True)
class DeletePoints:
    """Points are deleted."""

    ids: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class DeleteAsset:
    """Every point of an asset is deleted."""

    asset_id: str


@dataclass(frozen=True, kw_only=True)
class SetPoints:
    """Values in the payload of points are replaced."""

    ids: Sequence[str]
    facts: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class SetAsset:
    """Values in the payload of every point of an asset are replaced."""

    asset_id: str
    facts: Mapping[str, Any]


Change = Upsert | DeletePoints | DeleteAsset | SetPoints | SetAsset


def apply_change(
    shard: edge.EdgeShard, tracks: TrackStore, change: Change, *, is_durable: bool = True
) -> None:
    """Apply a change to an open shard and its tracks; new tracks are on the disk first, if it `is_durable`."""
    if isinstance(change, Upsert):
        _upsert(shard, tracks, change.points, is_durable=is_durable)
    elif isinstance(change, DeletePoints):
        left = _find_rows(shard, tracks, list(change.ids))
        shard.update(edge.UpdateOperation.delete_points(list(change.ids)))
        tracks.free(left)
    elif isinstance(change, DeleteAsset):
        delete_points(shard, tracks, of_asset(change.asset_id))
    elif isinstance(change, SetPoints):
        shard.update(edge.UpdateOperation.set_payload(list(change.ids), dict(change.facts)))
    else:
        asset = of_asset(change.asset_id)
        shard.update(edge.UpdateOperation.set_payload_by_filter(asset, dict(change.facts)))


def delete_points(shard: edge.EdgeShard, tracks: TrackStore, condition: edge.Filter) -> None:
    """Delete points in one entry of Edge's log, and note their rows."""
    left = []
    if tracks.holds_alone:
        request = edge.ScrollRequest(
            limit=shard.info().points_count + 1, filter=condition, with_payload=[ROWS], with_vector=False
        )
        left = [_rows_of(record) for record in shard.scroll(request)[0]]
    shard.update(edge.UpdateOperation.delete_points_by_filter(condition))
    tracks.free(left)


def of_asset(asset_id: str) -> edge.Filter:
    """A filter for the points of an asset."""
    return edge.Filter(must=[edge.FieldCondition("asset_id", match=edge.MatchValue(asset_id))])


def _upsert(
    shard: edge.EdgeShard, tracks: TrackStore, points: Sequence[StoredPoint], *, is_durable: bool
) -> None:
    if not points:
        return
    points = tracks.form.to_own(points)
    replaced = _find_rows(shard, tracks, [point.point_id for point in points])
    parts = [points[first : first + UPSERT_POINTS] for first in range(0, len(points), UPSERT_POINTS)]
    rows = [tracks.add(part) for part in parts]
    # A head makes its asset exist. Where Edge has no tracks, no point may name a row that a power cut takes.
    if is_durable and (tracks.holds_alone or any(point.payload["index"] == 0 for point in points)):
        tracks.sync()
    in_engine = MODALITIES if tracks.holds_alone else (*MODALITIES, *TRACK_NAMES)
    for part, numbers in zip(parts, rows, strict=True):
        stored = [_to_edge(point, own, in_engine) for point, own in zip(part, numbers, strict=True)]
        shard.update(edge.UpdateOperation.upsert_points(stored))
    tracks.free(replaced)


def _find_rows(shard: edge.EdgeShard, tracks: TrackStore, ids: Sequence[edge.PointId]) -> list[RowNumbers]:
    """The rows of those of some points that are stored, if their rows are used again."""
    if not tracks.holds_alone:
        return []
    return [_rows_of(record) for record in shard.retrieve(list(ids), with_payload=[ROWS], with_vector=False)]


def _rows_of(record: edge.Record) -> RowNumbers:
    return dict((record.payload or {}).get(ROWS, {}))


def _to_edge(point: StoredPoint, rows: RowNumbers, in_engine: Collection[str]) -> edge.Point:
    vectors: dict[str, Any] = {
        name: to_floats(vector) for name, vector in point.vectors.items() if name in in_engine
    }
    return edge.Point(id=point.point_id, vector=vectors, payload={**point.payload, ROWS: dict(rows)})


class ChangeLog:
    """Writes changes to files in an existing folder, in their order. They live as long as one build."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        self._file: BinaryIO | None = None

    def add(self, change: Change) -> None:
        """Append a change."""
        if self._file is None:
            self._number += 1
            self._file = self._path.open("xb")
        pickle.dump(change, self._file, protocol=pickle.HIGHEST_PROTOCOL)

    def roll(self) -> Path | None:
        """Complete the current file and return it, None if nothing changed since the last one."""
        if self._file is None:
            return None
        self._file.close()
        self._file = None
        return self._path

    @property
    def _path(self) -> Path:
        return self._folder / f"changes-{self._number:06d}"


def read_changes(path: Path) -> Iterator[Change]:
    """Read the changes of a file, in their order."""
    with path.open("rb") as file:
        while file.peek(1):
            change: Change = pickle.load(file)  # noqa: S301 - a shard process of ours wrote it a moment ago
            yield change


def replay(shard: edge.EdgeShard, tracks: TrackStore, path: Path) -> int:
    """Apply the changes of a file of `ChangeLog` to a shard, remove the file, and return how many there were.

    The shard is built aside: what it holds counts once it is flushed.
    """
    num_changes = 0
    for change in read_changes(path):
        apply_change(shard, tracks, change, is_durable=False)
        num_changes += 1
    tracks.sync()
    path.unlink()
    return num_changes
