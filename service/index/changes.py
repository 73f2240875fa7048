"""What happens to the points of a shard, as values: done to one shard, kept in files, done to another.

    log = ChangeLog(folder)
    apply_change(shard, change)
    log.add(change)
    path = log.roll()
    replay(other_shard, path)

A change says all that the points it touches become, so doing one again, or doing it to points that have it already,
does no harm as long as the order is kept. That is why a shard can be copied page by page while it is written to: a
page that was read goes into the same log as the writes before and after it (`service.index.aside`).
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import qdrant_edge as edge

from service.index.points import StoredPoint
from service.index.ranking import to_floats

UPSERT_POINTS = 64


@dataclass(frozen=True, kw_only=True)
class Upsert:
    """Points are stored, in the place of those with the same ids."""

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


def apply_change(shard: edge.EdgeShard, change: Change) -> None:
    """Do a change to a shard.

    Args:
        shard: The open shard.
        change: What to do.
    """
    if isinstance(change, Upsert):
        for first in range(0, len(change.points), UPSERT_POINTS):
            batch = [_to_edge(point) for point in change.points[first : first + UPSERT_POINTS]]
            shard.update(edge.UpdateOperation.upsert_points(batch))
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
    """A filter that every point of an asset fulfils."""
    return edge.Filter(must=[edge.FieldCondition("asset_id", match=edge.MatchValue(asset_id))])


def _to_edge(point: StoredPoint) -> edge.Point:
    vectors: dict[str, Any] = {name: to_floats(vector) for name, vector in point.vectors.items()}
    return edge.Point(id=point.point_id, vector=vectors, payload=dict(point.payload))


class ChangeLog:
    """Changes in files, in their order. What is in them is ours alone, and gone when the build is.

    Args:
        folder: Where the files go; it exists.
    """

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
        """Complete the file that is being written; further changes go into another.

        Returns:
            The file, or None where nothing changed since the last one.
        """
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
            change: Change = pickle.load(file)  # noqa: S301 - our own engine wrote it a moment ago
            yield change


def replay(shard: edge.EdgeShard, path: Path) -> int:
    """Do the changes of a file to a shard, and remove the file.

    Args:
        shard: The open shard.
        path: From `ChangeLog.roll`.

    Returns:
        How many there were.
    """
    num_changes = 0
    for change in read_changes(path):
        apply_change(shard, change)
        num_changes += 1
    path.unlink()
    return num_changes
