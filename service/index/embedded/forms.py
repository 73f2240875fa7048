"""The form in which a shard keeps tracks: float16, or rows of the codec; what is read of them in any form.

FOLDER/shard/storage.json    {"storage": "fine"}; without it, float16

The service makes rows of the tracks that it writes, and tracks of the rows that it reads: the shard process passes
them on as they are. A shard takes both, and rows of another kind than its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.index.codec import TrackCodec, encoding_of
from service.index.contract import Segment
from service.index.failure import REPAIR, IndexDamaged
from service.index.layout import TRACK_SUFFIX, VectorLayout
from service.index.points import StoredPoint, to_points
from service.system.files import replace_file
from service.system.modality import Modality, Track
from service.system.storage import BITS, STORAGES, Storage

FILE_NAME = "storage.json"
CHANGED_AT_ONCE = 16  # tracks of 16 × 768 take 1 MB: they stay in the cache

Vectors = Mapping[str, NDArray[Any]]


class TrackForm:
    """Tracks of a layout in one form: `codecs` has that of each modality, none for float16.

    Tracks are vectors of float32, (T·D,), or rows of a codec, uint8: the number of bytes says of which.
    """

    def __init__(self, layout: VectorLayout, storage: Storage) -> None:
        self.storage = storage
        self._layout = layout
        self.codecs = _codecs(layout, storage) if storage != "float16" else {}
        self._known = {
            (modality, codec.row_bytes): codec
            for some in BITS
            for modality, codec in _codecs(layout, some).items()
        }

    def of_segments(self, segments: Sequence[Segment]) -> list[StoredPoint]:
        """Points in this form, as `to_points` checks them; a track that was read from such a row is that row again."""
        points = to_points(segments, layout=self._layout)
        vectors: list[dict[str, NDArray[Any]]] = [dict(point.vectors) for point in points]
        for modality, codec in self.codecs.items():
            name = modality + TRACK_SUFFIX
            new: dict[int, Track] = {}
            for place, segment in enumerate(segments):
                track = segment.audio_track if modality == "audio" else segment.video_track
                if track is not None and (encoding := encoding_of(track)) and encoding[0] == codec:
                    vectors[place][name] = encoding[1]
                elif track is not None:
                    new[place] = track
            if new:
                rows = codec.encode(np.stack(list(new.values())).astype(np.float32))
                for place, row in zip(new, rows, strict=True):
                    vectors[place][name] = row
        return [replace(point, vectors=own) for point, own in zip(points, vectors, strict=True)]

    def to_own(self, points: Sequence[StoredPoint]) -> list[StoredPoint]:
        """The points with their tracks in this form; a track that becomes float16 again gets its own pooled vector."""
        changed: list[dict[str, NDArray[Any]]] = [dict(point.vectors) for point in points]
        for modality in self._layout.tracks:
            name = modality + TRACK_SUFFIX
            others = [one for one in changed if name in one and not self._is_own(one[name], modality)]
            codec = self.codecs.get(modality)
            for first in range(0, len(others), CHANGED_AT_ONCE):
                some = others[first : first + CHANGED_AT_ONCE]
                tracks = np.stack([self.read(one[name], modality) for one in some])
                rows = codec.encode(tracks) if codec else tracks.reshape(len(tracks), -1)
                for one, row, track in zip(some, rows, tracks, strict=True):
                    one[name] = row
                    if codec is None:
                        one[modality] = self._layout.pool(track)
        return [replace(point, vectors=vectors) for point, vectors in zip(points, changed, strict=True)]

    def _is_own(self, track: NDArray[Any], modality: Modality) -> bool:
        codec = self.codecs.get(modality)
        if codec is None:
            return track.dtype == np.float32
        return track.dtype == np.uint8 and len(track) == codec.row_bytes

    def read(self, track: NDArray[Any], modality: Modality) -> NDArray[np.float32]:
        """A track in any form, as float32, (T, D), numbers that float16 holds; one of a row knows it."""
        if track.dtype == np.uint8:
            return self._known[modality, len(track)].read(track[None])[0]
        return np.asarray(track.reshape(self._layout.shape(modality)))

    def pool(self, means: NDArray[np.float32]) -> NDArray[np.float32]:
        """Pooled vectors from the means of tracks: (N, D) each."""
        if self._layout.similarity != "cosine":
            return means
        return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True).clip(1e-12))

    def to_tracks(self, vectors: Vectors) -> dict[str, NDArray[np.float32]]:
        """The vectors of a point with the tracks as float32, (T, D)."""
        tracks = {modality + TRACK_SUFFIX: modality for modality in self._layout.tracks}
        return {
            name: self.read(vector, tracks[name]) if name in tracks else vector
            for name, vector in vectors.items()
        }


def _codecs(layout: VectorLayout, storage: Storage) -> dict[Modality, TrackCodec]:
    return {modality: TrackCodec.of(layout, modality, bits=BITS[storage]) for modality in layout.tracks}


def fitting(storage: Storage, layout: VectorLayout) -> Storage:
    """The kind of storage that a new shard gets: float16 if rows of a codec would not be smaller."""
    if storage == "float16":
        return storage
    is_smaller = all(
        codec.row_bytes < 2 * codec.num_moments * codec.width for codec in _codecs(layout, storage).values()
    )
    return storage if is_smaller else "float16"


def write_storage(shard: Path, storage: Storage) -> None:
    """Say in a new shard's folder how it stores tracks."""
    if storage != "float16":
        replace_file(shard / FILE_NAME, json.dumps({"storage": storage}) + "\n")


def read_storage(shard: Path) -> Storage:
    """How the shard in a folder stores tracks; raises `IndexDamaged` if it does not say that properly."""
    path = shard / FILE_NAME
    try:
        found = json.loads(path.read_text("ascii"))["storage"]
    except FileNotFoundError:
        return "float16"
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise IndexDamaged(f"{path} cannot be read: {exc}; {REPAIR}") from exc
    for storage in STORAGES:
        if found == storage:
            return storage
    raise IndexDamaged(f"{path} names the storage {found!r}, which this program does not know")
