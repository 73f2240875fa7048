"""The tracks of a shard as rows of a codec, a file for each modality; Edge has pooled vectors alone.

    tracks = PackedTracks(folder, form)
    rows = tracks.add(points)            # [{"audio_track": 0}, …], for the payload of the points

Both tracks and pooled vectors are read from the rows: those of Edge are rougher.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import qdrant_edge as edge
from numpy.typing import NDArray

from service.index.codec import Rows, TrackCodec
from service.index.embedded.forms import TrackForm
from service.index.embedded.rows import RowFile, Truths, to_uuid
from service.index.embedded.tracks import ROWS, RowNumbers, payload_of
from service.index.failure import REPAIR, IndexDamaged
from service.index.layout import TRACK_SUFFIX
from service.index.points import StoredPoint
from service.system.modality import Modality

logger = logging.getLogger(__name__)

MAX_PLACES = 1 << 17  # 16 MB for each modality


def row_of(payload: Mapping[str, Any] | None, modality: Modality) -> int:
    """The row that a payload names for a modality; -1 if it names none."""
    return int((payload or {}).get(ROWS, {}).get(modality + TRACK_SUFFIX, -1))


class PackedTracks:
    """The rows of one shard; see `service.index.embedded.tracks.TrackStore`. Not thread-safe."""

    holds_alone = True

    def __init__(self, folder: Path, form: TrackForm) -> None:
        self.form = form
        self._damaged: set[edge.PointId] = set()  # points
        self._places: dict[Modality, dict[int, int]] = {modality: {} for modality in form.codecs}
        self._files = {
            modality: RowFile(folder / f"{modality}.rows", row_bytes=codec.row_bytes)
            for modality, codec in form.codecs.items()
        }

    def __len__(self) -> int:
        return sum(map(len, self._files.values()))

    @property
    def num_synced(self) -> int:
        """Rows that are on the disk."""
        return sum(file.num_synced for file in self._files.values())

    @property
    def num_free(self) -> int:
        """Rows that no point names, as far as that is known."""
        return sum(file.num_free for file in self._files.values())

    @property
    def num_damaged(self) -> int:
        """Rows that a reader found damaged or lost."""
        return len(self._damaged)

    def codec(self, modality: Modality) -> TrackCodec:
        """What reads the rows of a modality."""
        return self.form.codecs[modality]

    def count_rows(self, modality: Modality) -> int:
        """One."""
        return 1

    def add(self, points: Sequence[StoredPoint]) -> list[RowNumbers]:
        """See `TrackStore.add`."""
        rows: list[RowNumbers] = [{} for _ in points]
        for point in points:
            for known in self._places.values():
                known.pop(UUID(point.point_id).int, None)
        for modality, file in self._files.items():
            name = modality + TRACK_SUFFIX
            places = [n for n, point in enumerate(points) if name in point.vectors]
            content = [points[n].vectors[name] for n in places]
            ids = [points[n].point_id for n in places]
            for n, row in zip(places, file.add(ids, np.array(content, dtype=np.uint8)), strict=True):
                rows[n][name] = row
        return rows

    def free(self, rows: Sequence[RowNumbers]) -> None:
        """See `TrackStore.free`."""
        for modality, file in self._files.items():
            name = modality + TRACK_SUFFIX
            file.free(numbers[name] for numbers in rows if name in numbers)

    def reuse(self) -> None:
        """See `TrackStore.reuse`."""
        for file in self._files.values():
            file.reuse()

    def find_rows(self, modality: Modality, shard: edge.EdgeShard, ids: Sequence[edge.PointId]) -> list[int]:
        """The rows of stored points: Edge takes 9 µs to read a payload, so those of `MAX_PLACES` points are kept."""
        places, keys = self._places[modality], [to_uuid(id).int for id in ids]
        missing = [id for id, key in zip(ids, keys, strict=True) if key not in places]
        if len(places) + len(missing) > MAX_PLACES:
            places.clear()
            missing = list(ids)
        for record in shard.retrieve(missing, with_payload=[ROWS], with_vector=False) if missing else ():
            places[to_uuid(record.id).int] = row_of(record.payload, modality)
        return [places.get(key, -1) for key in keys]

    def read(
        self,
        modality: Modality,
        numbers: Sequence[int],
        ids: Sequence[edge.PointId],
        *,
        checks_content: bool = True,
    ) -> tuple[Rows, Truths]:
        """What points have in some rows, (N, row_bytes), and whether it is there and whole; see `RowFile.read`."""
        content, is_whole = self._files[modality].read(numbers, ids, checks_content=checks_content)
        for place in np.flatnonzero(~is_whole).tolist():
            if ids[place] not in self._damaged:
                logger.error(
                    "row %d of %s, of point %s, is damaged or lost", numbers[place], modality, ids[place]
                )
            self._damaged.add(ids[place])
        return content, is_whole

    def to_points(self, records: Sequence[edge.Record], names: Sequence[str]) -> list[StoredPoint]:
        """See `TrackStore.to_points`; raises `IndexDamaged` if a row is damaged or lost."""
        vectors: list[dict[str, NDArray[Any]]] = [{} for _ in records]
        for modality in self._files:
            track = modality + TRACK_SUFFIX
            has = [n for n, record in enumerate(records) if track in (record.payload or {}).get(ROWS, {})]
            if not has or not {modality, track} & set(names):
                continue
            numbers = [row_of(records[n].payload, modality) for n in has]
            rows, is_whole = self.read(modality, numbers, [records[n].id for n in has])
            if not is_whole.all():
                raise IndexDamaged(
                    f"{np.sum(~is_whole)} {modality} tracks of the index are damaged; {REPAIR}"
                )
            pooled = self.form.pool(self.codec(modality).means(rows)) if modality in names else None
            for place, n in enumerate(has):
                if pooled is not None:
                    vectors[n][modality] = pooled[place]
                if track in names:
                    vectors[n][track] = rows[place].copy()
        return [
            StoredPoint(point_id=str(record.id), vectors=found, payload=payload_of(record))
            for record, found in zip(records, vectors, strict=True)
        ]

    def from_files(self, records: Sequence[edge.Record], names: Sequence[str]) -> list[StoredPoint | None]:
        """See `TrackStore.from_files`; raises as `to_points` does."""
        return list(self.to_points(records, names))

    def sync(self) -> None:
        """See `TrackStore.sync`."""
        for file in self._files.values():
            file.sync()

    def close(self) -> None:
        """See `TrackStore.close`."""
        for file in self._files.values():
            file.close()
