"""A segment as a point: its id, its vectors and its payload, checked before they are stored.

Qdrant stores NaN, infinite and zero vectors silently and never finds them again, and of a batch with one vector of the
wrong width it stores the rest. So all segments of a call are checked here before any is stored.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.index.contract import Segment, VectorQuery
from service.index.failure import InvalidSegment, InvalidVector
from service.index.payload import describe_files, describe_metadata, load_path
from service.system.modality import MODALITIES, Track

TRACK_SUFFIX = "_track"
TRACK_NAMES = tuple(modality + TRACK_SUFFIX for modality in MODALITIES)
NORM_TOLERANCE = 1e-3  # a unit row in float16 is off by 1e-4 at most
_NAMESPACE = uuid.UUID("5b1a4f0e-7d0c-5c5a-9d43-9b6f4f9d2a10")


@dataclass(frozen=True, kw_only=True)
class StoredPoint:
    """What is stored for one segment: writing a segment twice stores it once, as the id is that of asset and start.

    `vectors` are pooled vectors `audio`, `video`, shape (D,), and tracks `audio_track`, `video_track`, shape (T·D,),
    float32; a modality the segment lacks is left out. `payload` has JSON values.
    """

    point_id: str
    vectors: Mapping[str, NDArray[np.float32]]
    payload: Mapping[str, Any]


def point_id(asset_id: str, start_seconds: float) -> str:
    """The id of a segment's point, the same in every run: UUIDv5 of asset and start in milliseconds."""
    return str(uuid.uuid5(_NAMESPACE, f"{asset_id}:{round(start_seconds * 1000)}"))


def is_point_id(text: str) -> bool:
    """Whether a text is a UUID in its usual form."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def check_track(track: Track, *, shape: tuple[int, int], name: str = "track") -> Track:
    """The track as C-contiguous float32, checked: of shape (T, D), finite, unit rows that do not cancel out.

    `name` is what the message of `InvalidVector` calls it.
    """
    if not isinstance(track, np.ndarray) or track.dtype.kind != "f":
        raise InvalidVector(f"{name} must be an array of floats, got {getattr(track, 'dtype', type(track))}")
    if track.shape != shape:
        raise InvalidVector(f"{name} must be {shape}, got {track.shape}")
    rows = np.ascontiguousarray(track, dtype=np.float32)
    if not np.isfinite(rows).all():
        raise InvalidVector(f"{name} must be finite, got NaN or infinity")
    norms = np.linalg.norm(rows, axis=1)  # (T,)
    worst = int(np.argmax(np.abs(norms - 1.0)))
    if abs(norms[worst] - 1.0) > NORM_TOLERANCE:
        raise InvalidVector(f"{name} must have rows of unit length, got {norms[worst]:.6g} in row {worst}")
    if np.linalg.norm(rows.mean(axis=0)) < NORM_TOLERANCE:
        raise InvalidVector(
            f"{name} has rows that cancel out: their mean must be longer than {NORM_TOLERANCE}"
        )
    return rows


def check_query(query: VectorQuery, *, shape: tuple[int, int]) -> VectorQuery:
    """The query with its track checked."""
    return replace(query, track=check_track(query.track, shape=shape, name="query"))


def pool_track(track: Track) -> NDArray[np.float32]:
    """The normalised mean of the moments, float32, shape (D,)."""
    mean = track.mean(axis=0, dtype=np.float64)
    return np.asarray(mean / np.linalg.norm(mean), dtype=np.float32)


def to_points(segments: Sequence[Segment], *, shape: tuple[int, int]) -> list[StoredPoint]:
    """Turn segments of one asset into points, all or none; raises `InvalidSegment` or `InvalidVector`."""
    if not segments:
        raise InvalidSegment("a write needs at least one segment, got none")
    for before, after in pairwise(segments):
        if after.asset_id != before.asset_id:
            raise InvalidSegment(f"a write takes one asset, got {before.asset_id} and {after.asset_id}")
        if after.index <= before.index or round((after.start_seconds - before.start_seconds) * 1000) < 1:
            raise InvalidSegment(
                f"segments must rise in index and start, got {before.index} at {before.start_seconds} s "
                f"before {after.index} at {after.start_seconds} s"
            )
    return [_to_point(segment, shape) for segment in segments]


def _to_point(segment: Segment, shape: tuple[int, int]) -> StoredPoint:
    vectors: dict[str, NDArray[np.float32]] = {}
    for modality, track in (("audio", segment.audio_track), ("video", segment.video_track)):
        if track is not None:
            name = f"{modality}_track of segment {segment.index} of {segment.asset_id}"
            rows = check_track(track, shape=shape, name=name)
            stored = rows.astype(np.float16).astype(np.float32)  # a copy of the track has the same mean
            vectors[modality] = pool_track(stored)
            vectors[modality + TRACK_SUFFIX] = stored.ravel()
    payload = {
        "asset_id": segment.asset_id,
        "index": segment.index,
        "start_seconds": float(segment.start_seconds),
        "end_seconds": float(segment.end_seconds),
        **describe_files((segment.path, *segment.paths), segment.media),
        **describe_metadata(segment.metadata),
    }
    return StoredPoint(
        point_id=point_id(segment.asset_id, segment.start_seconds), vectors=vectors, payload=payload
    )


def to_segment(
    payload: Mapping[str, Any], vectors: Mapping[str, NDArray[np.float32]], *, shape: tuple[int, int]
) -> Segment:
    """The segment, from the payload and the vectors of its point; `shape` is (T, D)."""
    path, *paths = (load_path(stored) for stored in payload["paths"])
    tracks = {
        modality: vectors[modality + TRACK_SUFFIX].reshape(shape)
        for modality in MODALITIES
        if modality + TRACK_SUFFIX in vectors
    }
    return Segment(
        asset_id=payload["asset_id"],
        path=path,
        index=payload["index"],
        start_seconds=payload["start_seconds"],
        end_seconds=payload["end_seconds"],
        media=payload["media"],
        audio_track=tracks.get("audio"),
        video_track=tracks.get("video"),
        paths=tuple(paths),
        metadata=payload["metadata"],
    )
