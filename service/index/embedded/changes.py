"""Changes to the points of a shard, as values: applied to one shard, kept in files, replayed on another.

    log = ChangeLog(folder)
    apply_change(shard, copies, change)
    log.add(change)
    path = log.roll()
    replay(other_shard, other_copies, path)

A change holds all that its points become, so it may be applied again, or to points that have it already, as long as
the order is kept. That is why a shard can be copied page by page while it is written to: a page that was read goes
into the same log as the writes before and after it (`service.index.embedded.aside`).
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import qdrant_edge as edge

from service.index.embedded.ranking import to_floats
from service.index.embedded.tracks import ROWS, TrackCopies
from service.index.layout import TRACK_NAMES
from service.index.points import StoredPoint

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


def apply_change(shard: edge.EdgeShard, copies: TrackCopies, change: Change) -> None:
    """Apply a change to an open shard and its copies of the tracks."""
    if isinstance(change, Upsert):
        for first in range(0, len(change.points), UPSERT_POINTS):
            _upsert(shard, copies, change.points[first : first + UPSERT_POINTS])
    elif isinstance(change, DeletePoints):
        shard.update(edge.UpdateOperation.delete_points(list(change.ids)))
    elif isinstance(change, DeleteAsset):
        shard.update(edge.UpdateOperation.delete_points_by_filter(of_asset(change.asset_id)))
    elif isinstance(change, SetPoints):
        shard.update(edge.UpdateOperation.set_payload(list(change.ids), dict(change.facts)))
    else:
        asset = of_asset(change.asset_id)
        shard.update(edge.UpdateOperation.set_payload_by_filter(asset, dict(change.facts)))


def of_asset(asset_id: str) -> edge.Filter:
    """A filter for the points of an asset."""
    return edge.Filter(must=[edge.FieldCondition("asset_id", match=edge.MatchValue(asset_id))])


def _upsert(shard: edge.EdgeShard, copies: TrackCopies, points: Sequence[StoredPoint]) -> None:
    places = [(n, name) for n, point in enumerate(points) for name in point.vectors if name in TRACK_NAMES]
    rows: list[dict[str, int]] = [{} for _ in points]
    for (n, name), row in zip(
        places, copies.append([points[n].vectors[name] for n, name in places]), strict=True
    ):
        rows[n][name] = row
    if any(point.payload["index"] == 0 for point in points):
        copies.sync()  # a head makes its asset exist
    shard.update(edge.UpdateOperation.upsert_points([*map(_to_edge, points, rows)]))


def _to_edge(point: StoredPoint, rows: Mapping[str, int]) -> edge.Point:
    vectors: dict[str, Any] = {name: to_floats(vector) for name, vector in point.vectors.items()}
    return edge.Point(id=point.point_id, vector=vectors, payload={**point.payload, ROWS: dict(rows)})


def read_point(record: edge.Record) -> StoredPoint:
    """A point as it was stored, without the rows of its tracks, which belong to one shard."""
    found = record.vector if isinstance(record.vector, dict) else {}
    vectors = {name: np.asarray(vector, dtype=np.float32) for name, vector in found.items()}
    payload = {key: value for key, value in (record.payload or {}).items() if key != ROWS}
    return StoredPoint(point_id=str(record.id), vectors=vectors, payload=payload)


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


def replay(shard: edge.EdgeShard, copies: TrackCopies, path: Path) -> int:
    """Apply the changes of a file of `ChangeLog` to a shard, remove the file, and return how many there were."""
    num_changes = 0
    for change in read_changes(path):
        apply_change(shard, copies, change)
        num_changes += 1
    path.unlink()
    return num_changes
