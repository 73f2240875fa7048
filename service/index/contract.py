"""What every index can do, and the records that travel in and out of it.

An index holds one point per segment: a pooled vector and a track for each modality the segment has, and a payload
that says where the segment is. `service.index.embedded` implements the contract on Qdrant Edge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Modality = Literal["audio", "video"]
Track = NDArray[np.float32]  # (T, D): one unit embedding per moment


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One segment of an asset as it is stored: up to 10 s, half-open [start, end).

    Attributes:
        asset_id: sha256 of the file's content, 64 lower-case hex digits.
        path: Absolute path of the media file when it was indexed.
        index: Position of the segment in its asset, from 0.
        start_seconds: Start on the asset's own timeline.
        end_seconds: End, exclusive.
        media: Facts about the file for people and filters (container, codecs, duration, size), JSON values only.
        audio_track: Unit embeddings of the sound, float32, shape (T, D), or None where the segment has no sound.
        video_track: The same of the picture.
    """

    asset_id: str
    path: str
    index: int
    start_seconds: float
    end_seconds: float
    media: Mapping[str, Any] = field(default_factory=dict)
    audio_track: Track | None = None
    video_track: Track | None = None


@dataclass(frozen=True, kw_only=True)
class SegmentMatch:
    """One segment found by a search.

    Attributes:
        asset_id: sha256 of the file's content.
        path: Path of the media file.
        start_seconds: Start of the segment on the asset's timeline.
        end_seconds: End, exclusive.
        score: Diagonal mean: the mean of `moments`, in [-1, 1].
        moments: Cosine similarity of each of the T moments of the query with the same moment of the segment.
        media: Facts about the file.
    """

    asset_id: str
    path: str
    start_seconds: float
    end_seconds: float
    score: float
    moments: tuple[float, ...]
    media: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One media file as the index knows it.

    Attributes:
        asset_id: sha256 of the file's content.
        path: Path of the media file when it was indexed.
        num_segments: How many of its segments are stored.
        modalities: Which modalities at least one of its segments has, in the order audio, video.
        media: Facts about the file.
    """

    asset_id: str
    path: str
    num_segments: int
    modalities: tuple[Modality, ...]
    media: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class AssetPage:
    """A page of assets in a stable order, and the cursor of the next page (None after the last)."""

    assets: tuple[Asset, ...]
    next_cursor: str | None


class IndexFailure(Exception):
    """The index could not do what was asked. Subclasses say why."""


class IndexInUse(IndexFailure):
    """Another process has the index open."""


class IndexUnavailable(IndexFailure):
    """The engine's process died or did not answer; the call may be tried again."""


class InvalidVector(IndexFailure):
    """A track has the wrong shape, a value that is not finite, or a row that is not of unit length."""


class Index(Protocol):
    """A store of segments that is searched by track. Calls block; every method may be called from any thread."""

    def write_asset(self, segments: Sequence[Segment], *, is_last: bool) -> None:
        """Store segments of one asset durably: on return they survive a kill and a power cut."""
        ...

    def search(
        self, track: Track, *, target: Modality, limit: int, prefetch: int = 200
    ) -> list[SegmentMatch]:
        """Best segments by diagonal mean among the `prefetch` nearest by pooled vector, best first."""
        ...

    def get_asset(self, asset_id: str) -> Asset | None:
        """The asset, or None where no complete asset of this id is stored."""
        ...

    def list_assets(self, *, limit: int, cursor: str | None = None) -> AssetPage:
        """A page of the complete assets in the order of their ids."""
        ...

    def delete_asset(self, asset_id: str) -> int:
        """Remove every segment of the asset durably and return how many there were."""
        ...

    def count_segments(self, *, modality: Modality | None = None) -> int:
        """How many segments are stored, or how many of them have the modality."""
        ...

    def optimize(self) -> None:
        """Build the HNSW graphs. Blocks every other call: not for a process that answers queries."""
        ...

    def close(self) -> None:
        """Flush and stop. Safe to call twice."""
        ...
