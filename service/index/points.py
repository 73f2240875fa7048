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
from service.index.layout import TRACK_SUFFIX, VectorLayout
from service.index.payload import describe_files, describe_labels, describe_metadata, load_path
from service.system.modality import Modality, Track

FLOAT16_MAX = 65_504.0
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


def check_track(track: Track, *, layout: VectorLayout, modality: Modality, name: str) -> Track:
    """A track to be stored, as C-contiguous float32: of its layout's shape, finite, with `cosine` of unit rows.

    Lengths of rows that are weighed have a mean of 1.

    `name` is what the message of `InvalidVector` calls it. Rows must not cancel out, and their numbers must fit into
    the float16 of the store: a scaled row would have another score.
    """
    if modality not in layout.tracks:
        raise InvalidVector(f"{name} is not stored: the index holds {' and '.join(layout.tracks)} alone")
    rows = _check_numbers(track, shape=layout.tracks[modality], name=name)
    if layout.is_weighed(modality):
        norms = np.linalg.norm(rows, axis=1)
        if not (abs(norms.mean() - 1.0) <= NORM_TOLERANCE and norms.min() > NORM_TOLERANCE):
            raise InvalidVector(
                f"{name} must have rows of lengths above 0 with a mean of 1, got {norms.min():.6g} to {norms.max():.6g}"
            )
    elif layout.similarity == "cosine":
        norms = np.linalg.norm(rows, axis=1)  # (T,)
        worst = int(np.argmax(np.abs(norms - 1.0)))
        if abs(norms[worst] - 1.0) > NORM_TOLERANCE:
            raise InvalidVector(
                f"{name} must have rows of unit length, got {norms[worst]:.6g} in row {worst}"
            )
    return _check_mean(rows, name=name)


def check_query_track(track: Track, *, layout: VectorLayout, target: Modality, name: str = "query") -> Track:
    """A track to search with, as `check_track` gives it; with `cosine` rows may be shorter than 1.

    A weighted mean of unit rows is shorter. Raises `NotEmbedded` if the target is not stored.
    """
    rows = _check_numbers(track, shape=layout.shape(target), name=name)
    if layout.similarity == "cosine":
        norms = np.linalg.norm(rows, axis=1)  # (T,)
        worst = int(np.argmax(norms))
        if norms[worst] > 1.0 + NORM_TOLERANCE:
            raise InvalidVector(
                f"{name} must have rows of at most unit length, got {norms[worst]:.6g} in row {worst}"
            )
    return _check_mean(rows, name=name)


def _check_numbers(track: Track, *, shape: tuple[int, int], name: str) -> Track:
    if not isinstance(track, np.ndarray) or track.dtype.kind != "f":
        raise InvalidVector(f"{name} must be an array of floats, got {getattr(track, 'dtype', type(track))}")
    if track.shape != shape:
        raise InvalidVector(f"{name} must be {shape}, got {track.shape}")
    rows = np.ascontiguousarray(track, dtype=np.float32)
    if not np.isfinite(rows).all():
        raise InvalidVector(f"{name} must be finite, got NaN or infinity")
    if (largest := float(np.abs(rows).max())) > FLOAT16_MAX:
        raise InvalidVector(f"{name} must hold numbers up to {FLOAT16_MAX:g} (float16), got {largest:g}")
    return rows


def _check_mean(rows: Track, *, name: str) -> Track:
    if np.linalg.norm(rows.mean(axis=0)) < NORM_TOLERANCE:
        raise InvalidVector(
            f"{name} has rows that cancel out: their mean must be longer than {NORM_TOLERANCE}"
        )
    return rows


def check_query(query: VectorQuery, *, layout: VectorLayout) -> VectorQuery:
    """The query with its track checked."""
    return replace(query, track=check_query_track(query.track, layout=layout, target=query.target))


def to_points(segments: Sequence[Segment], *, layout: VectorLayout) -> list[StoredPoint]:
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
    return [_to_point(segment, layout) for segment in segments]


def _to_point(segment: Segment, layout: VectorLayout) -> StoredPoint:
    vectors: dict[str, NDArray[np.float32]] = {}
    tracks: dict[Modality, Track | None] = {"audio": segment.audio_track, "video": segment.video_track}
    for modality, track in tracks.items():
        if track is not None:
            name = f"{modality}_track of segment {segment.index} of {segment.asset_id}"
            rows = check_track(track, layout=layout, modality=modality, name=name)
            stored = rows.astype(np.float16).astype(np.float32)  # a copy of the track has the same mean
            vectors[modality] = layout.pool(stored)
            vectors[modality + TRACK_SUFFIX] = stored.ravel()
    payload: dict[str, Any] = {
        "asset_id": segment.asset_id,
        "index": segment.index,
        "start_seconds": float(segment.start_seconds),
        "end_seconds": float(segment.end_seconds),
        **describe_files((segment.path, *segment.paths), segment.media),
        **describe_metadata(segment.metadata),
    }
    payload |= describe_labels(payload)
    return StoredPoint(
        point_id=point_id(segment.asset_id, segment.start_seconds), vectors=vectors, payload=payload
    )


def to_segment(
    payload: Mapping[str, Any], vectors: Mapping[str, NDArray[np.float32]], *, layout: VectorLayout
) -> Segment:
    """The segment, from the payload and the vectors of its point; a track that is (T, D) already stays what it is."""
    path, *paths = (load_path(stored) for stored in payload["paths"])
    found = {modality: vectors.get(modality + TRACK_SUFFIX) for modality in layout.tracks}
    tracks = {
        modality: track if track.shape == layout.shape(modality) else track.reshape(layout.shape(modality))
        for modality, track in found.items()
        if track is not None
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
