"""Copies of the tracks in a file of rows, from which a few are read fast.

    copies = TrackCopies(folder, layout)
    rows = copies.append([track])
    copies.read(rows, shape=(16, 768))

Qdrant Edge gives a vector as Python floats: reading ten tracks of 16 × 768 takes it 2.8 ms, this file .3 ms. What Edge
stores counts: a copy may be missing, and a reader compares it with Edge's score
(`service.index.embedded.ranking`). Rows are on the disk before the head of their asset is, and never written twice;
those of deleted points are left out when the shard is built aside.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service.index.embedded.forms import TrackForm
from service.index.failure import IndexFull
from service.index.layout import TRACK_SUFFIX, VectorLayout
from service.index.points import StoredPoint
from service.system.modality import MODALITIES, Modality

if TYPE_CHECKING:
    import qdrant_edge as edge  # the service itself does not load it

FILE_NAME = "tracks.f16"
ROWS = "rows"
"""Key of a point's payload: the row of each modality's track, in the file of its shard."""

RowNumbers = dict[str, int]  # by the name of the track


class TrackStore(Protocol):
    """Where a shard has its tracks: the rows of a file, and perhaps Edge as well. Not thread-safe."""

    form: TrackForm

    @property
    def holds_alone(self) -> bool:
        """Whether Edge has no tracks: it has rough pooled vectors to search by. Rows of deleted points are reused."""

    @property
    def num_synced(self) -> int:
        """Rows that are on the disk."""

    @property
    def num_free(self) -> int:
        """Rows that are free to be reused, as far as that is known."""

    @property
    def num_damaged(self) -> int:
        """Rows that were found damaged or lost, and that are nowhere else."""

    def __len__(self) -> int:
        """Number of rows, those of deleted points included."""

    def count_rows(self, modality: Modality) -> int:
        """Rows that a track takes."""

    def add(self, points: Sequence[StoredPoint]) -> list[RowNumbers]:
        """Write the tracks of points, which are in the form of the store; return their rows, or raise `IndexFull`."""

    def free(self, rows: Sequence[RowNumbers]) -> None:
        """Note rows that no point names any more."""

    def reuse(self) -> None:
        """Let these be written again: Edge was flushed."""

    def from_files(self, records: Sequence[edge.Record], names: Sequence[str]) -> list[StoredPoint | None]:
        """The points with these tracks, from files alone; None where Edge must be asked for the tracks.

        The records have their payload and, unless the store `holds_alone`, the pooled vectors of these tracks.
        """

    def to_points(self, records: Sequence[edge.Record], names: Sequence[str]) -> list[StoredPoint]:
        """Points as they were stored, with these vectors.

        The records have their payload and, unless the store `holds_alone`, these vectors.
        """

    def sync(self) -> None:
        """Make all rows durable."""

    def close(self) -> None:
        """Close the files. Safe to call twice."""


def payload_of(record: edge.Record) -> dict[str, Any]:
    """The payload of a point without the rows of its tracks, which belong to one shard."""
    return {key: value for key, value in (record.payload or {}).items() if key != ROWS}


class TrackCopies:
    """A shard's file of rows, created if it is missing. A track takes one or several. Not thread-safe.

    If all tracks have one shape, a row has T·D values and is a track; else as many as divide T·D of each.
    """

    holds_alone = False
    num_free = 0
    num_damaged = 0

    def __init__(self, folder: Path, layout: VectorLayout) -> None:
        self._layout = layout
        self.form = TrackForm(layout, "float16")
        self._values = {modality: math.prod(shape) for modality, shape in layout.tracks.items()}
        self._num_values = num_values = math.gcd(*self._values.values())
        self._row_bytes = 2 * num_values
        self._fd = os.open(folder / FILE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        num_bytes = os.fstat(self._fd).st_size
        self._num_rows = -(-num_bytes // self._row_bytes)  # a row that was cut short is not used again

        self.num_synced = self._num_rows  # rows that are on the disk

    def __len__(self) -> int:
        """Number of rows, those of deleted points included."""
        return self._num_rows

    def count_rows(self, modality: Modality) -> int:
        """See `TrackStore.count_rows`."""
        return self._values[modality] // self._num_values

    def add(self, points: Sequence[StoredPoint]) -> list[RowNumbers]:
        """See `TrackStore.add`."""
        names = [modality + TRACK_SUFFIX for modality in MODALITIES]
        places = [(n, name) for n, point in enumerate(points) for name in names if name in point.vectors]
        rows: list[RowNumbers] = [{} for _ in points]
        for (n, name), row in zip(
            places, self.append([points[n].vectors[name] for n, name in places]), strict=True
        ):
            rows[n][name] = row
        return rows

    def free(self, rows: Sequence[RowNumbers]) -> None:
        """Do nothing: rows are never written twice."""

    def reuse(self) -> None:
        """Do nothing: rows are never written twice."""

    def from_files(self, records: Sequence[edge.Record], names: Sequence[str]) -> list[StoredPoint | None]:
        """See `TrackStore.from_files`: a copy is the track if its mean is Edge's pooled vector, to the last bit."""
        return [self._from_file(record, names) for record in records]

    def _from_file(self, record: edge.Record, names: Sequence[str]) -> StoredPoint | None:
        payload, pooled = record.payload or {}, record.vector if isinstance(record.vector, dict) else {}
        vectors: dict[str, NDArray[np.float32]] = {}
        for modality, shape in self._layout.tracks.items():
            name = modality + TRACK_SUFFIX
            if name not in names or modality not in pooled:
                continue
            (track,), (is_there,) = self.read([payload.get(ROWS, {}).get(name, -1)], shape=shape)
            with np.errstate(all="ignore"):  # bytes that are no track
                is_same = is_there and np.array_equal(
                    self._layout.pool(track), np.asarray(pooled[modality], dtype=np.float32)
                )
            if not is_same:
                return None
            vectors[name] = track.ravel()
        return StoredPoint(point_id=str(record.id), vectors=vectors, payload=payload_of(record))

    def to_points(self, records: Sequence[edge.Record], names: Sequence[str]) -> list[StoredPoint]:
        """See `TrackStore.to_points`."""
        points = []
        for record in records:
            found: Mapping[str, Any] = record.vector if isinstance(record.vector, dict) else {}
            vectors = {name: np.asarray(found[name], dtype=np.float32) for name in names if name in found}
            points.append(StoredPoint(point_id=str(record.id), vectors=vectors, payload=payload_of(record)))
        return points

    def append(self, tracks: Sequence[NDArray[np.float32]]) -> list[int]:
        """Append tracks of T·D values that float16 holds exactly, and return their first rows; raises `IndexFull`."""
        rest = memoryview(b"".join(track.astype(np.float16).tobytes() for track in tracks))
        ends = self._num_rows + np.cumsum([0, *(track.size // self._num_values for track in tracks)])
        rows: list[int] = ends[:-1].tolist()
        offset = self._num_rows * self._row_bytes
        try:
            while rest:
                num_bytes = os.pwrite(self._fd, rest, offset)
                rest, offset = rest[num_bytes:], offset + num_bytes
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT):
                raise IndexFull(f"{FILE_NAME} cannot grow: {exc.strerror}") from exc
            raise
        self._num_rows = int(ends[-1])
        return rows

    def read(
        self, rows: Sequence[int], *, shape: tuple[int, ...]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read the tracks (T, D) that begin at some rows: float32, (N, T, D), and whether each is there; else zeros."""
        num_bytes = 2 * math.prod(shape)
        found = [os.pread(self._fd, num_bytes, max(0, row) * self._row_bytes) for row in rows]
        is_there = np.array(
            [row >= 0 and len(one) == num_bytes for row, one in zip(rows, found, strict=True)], dtype=bool
        )
        nothing = bytes(num_bytes)
        joined = b"".join(one if is_whole else nothing for one, is_whole in zip(found, is_there, strict=True))
        tracks = np.frombuffer(joined, dtype=np.float16).astype(np.float32)
        return tracks.reshape(len(rows), *shape), is_there

    def sync(self) -> None:
        """Make all rows durable."""
        os.fdatasync(self._fd)
        self.num_synced = self._num_rows

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
