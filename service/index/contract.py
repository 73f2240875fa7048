"""What every index can do, and the records that go into it and come out of it.

An index holds one point per segment: for each modality of the segment a pooled vector and a track, and a payload that
says where the segment is. `tests/support/index_contract.py` is the suite that every implementation passes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from service.index.failure import InvalidFilter, InvalidSegment, InvalidVector
from service.index.layout import VectorLayout
from service.system.modality import MODALITIES, Modality, Track
from service.system.storage import Storage

MetadataValue = str | int | float | bool
PooledVectors = dict[str, NDArray[np.float32]]
_ASSET_ID = re.compile(r"[0-9a-f]{64}")
VALUES = "text, numbers (64 bits), true and false"  # what metadata can hold


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Numbers of metadata from `at_least` to `at_most`, both included; None for no bound."""

    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which assets count. Every given condition must hold; an empty filter lets all assets pass.

    A path of the asset must lie in `folder` (absolute) or below it; at least one segment must have `modality`. Bounds
    are compared with `media["duration_seconds"]`, inclusive, and with `media["modified_ns"]`, in seconds since 1970,
    `modified_before` exclusive. `is_silent` and `is_static` are compared with those of `media`; unknown is neither true
    nor false. `metadata` has for each key the value an asset must have there, or several of which it must have one, or
    `Bounds`; if the asset has a list, one of its elements must fit. `1`, `"1"` and `True` are three values, `1` and
    `1.0` are one.

    Raises `InvalidFilter` if a condition makes no sense.
    """

    folder: str | None = None
    modality: Modality | None = None
    min_duration_seconds: float | None = None
    max_duration_seconds: float | None = None
    modified_after: float | None = None
    modified_before: float | None = None
    is_silent: bool | None = None
    is_static: bool | None = None
    metadata: Mapping[str, MetadataValue | Sequence[MetadataValue] | Bounds] = field(default_factory=dict)

    def __post_init__(self) -> None:
        folder = self.folder
        if folder is not None and ("\0" in folder or not (folder.startswith("/") or "://" in folder)):
            raise InvalidFilter(f"folder must be an absolute path or an address, got {folder[:80]!r}")
        if self.modality not in (*MODALITIES, None):
            raise InvalidFilter(f"modality must be audio or video, got {self.modality!r}")
        for least, most in (
            (self.min_duration_seconds, self.max_duration_seconds),
            (self.modified_after, self.modified_before),
            *(
                (found.at_least, found.at_most)
                for found in self.metadata.values()
                if isinstance(found, Bounds)
            ),
        ):
            for bound in (least, most):
                if bound is not None and not math.isfinite(bound):
                    raise InvalidFilter(f"a bound of a filter must be finite, got {bound}")
            if least is not None and most is not None and least > most:
                both = f"{least} and {most}"
                raise InvalidFilter(f"a filter's lower bound must not be above the upper, got {both}")
        self._check_metadata()

    def _check_metadata(self) -> None:
        for key, values in self.metadata.items():
            if isinstance(values, Bounds):
                if '"' in key or "\\" in key:
                    raise InvalidFilter(
                        f"a key with a quote or backslash cannot have bounds, got {key[:80]!r}"
                    )
            elif not all(map(is_value, values_of(values))):
                raise InvalidFilter(f"metadata is compared with {VALUES}: {key!r} has {values!r}")

    @property
    def is_empty(self) -> bool:
        """Whether every asset passes."""
        return self == Filter()


def is_value(value: object) -> bool:
    """Whether metadata can hold it: text, true, false, a number that 64 bits hold (not NaN, not infinite)."""
    return isinstance(value, str) or (isinstance(value, int | float) and -(2**63) <= value < 2**63)


def values_of(values: MetadataValue | Sequence[MetadataValue]) -> Sequence[MetadataValue]:
    """The values as a sequence; a single value becomes a sequence of one."""
    return (values,) if isinstance(values, str) or not isinstance(values, Sequence) else values


def check_modality(modality: str) -> None:
    """Raise ValueError if it is neither audio nor video."""
    if modality not in MODALITIES:
        raise ValueError(f"a modality is audio or video, got {modality!r}")


def check_limit(limit: int) -> None:
    """Raise ValueError if it is below 1."""
    if limit < 1:
        raise ValueError(f"limit must be 1 or more, got {limit}")


@dataclass(frozen=True, kw_only=True)
class VectorQuery:
    """What to search an index for: the index checks `track`, float32, shape (T, D) of its target.

    Rows need not be of unit length: a weighted mean of several queries has shorter ones.

    The pooled vectors give `prefetch` candidates, from the segments of the filter's assets alone; None for all assets.
    """

    track: Track
    target: Modality
    limit: int
    prefetch: int = 200
    filter: Filter | None = None

    def __post_init__(self) -> None:
        check_modality(self.target)
        check_limit(self.limit)
        if self.prefetch < 1:
            raise ValueError(f"prefetch must be 1 or more, got {self.prefetch}")

    @property
    def num_candidates(self) -> int:
        """`prefetch`, but never less than `limit`."""
        return max(self.prefetch, self.limit)


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One segment of an asset as it is stored: up to 10 s, half-open [start, end).

    Attributes:
        asset_id: sha256 of the file's content, 64 lower-case hex digits.
        path: Absolute path of the media file when it was indexed.
        index: Position of the segment in its asset, from 0.
        start_seconds: Start on the asset's own timeline.
        media: Facts about the file for people and filters (container, codecs, duration, size), JSON values only.
        audio_track: Embeddings of the sound, float32, shape (T, D), or None if the segment has none: unit rows if the
            bundle compares by cosine, times the weights of its moments if the bundle weighs them.
        video_track: The same for the picture.
        paths: Paths of further files with the same content.
        metadata: What people say about the asset, by key: text, numbers, true and false, or lists of them.
            The same in every segment of an asset.

    Raises `InvalidSegment` if id, position or span makes no sense, `InvalidVector` without any track.
    """

    asset_id: str
    path: str
    index: int
    start_seconds: float
    end_seconds: float
    media: Mapping[str, Any] = field(default_factory=dict)
    audio_track: Track | None = None
    video_track: Track | None = None
    paths: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _ASSET_ID.fullmatch(self.asset_id):
            raise InvalidSegment(f"asset_id must be 64 lower-case hex digits, got {self.asset_id[:80]!r}")
        if self.index < 0:
            raise InvalidSegment(f"index must be 0 or more, got {self.index}")
        if not 0.0 <= self.start_seconds < self.end_seconds < float("inf"):
            span = f"[{self.start_seconds}, {self.end_seconds})"
            raise InvalidSegment(f"a segment spans [start, end) with 0 <= start < end, got {span}")
        if self.audio_track is None and self.video_track is None:
            raise InvalidVector("a segment needs an audio track, a video track or both, got neither")


@dataclass(frozen=True, kw_only=True)
class SegmentMatch:
    """One segment found by a search; fields of the same name as in `Segment` mean the same.

    `moments` are the similarities of each of the T moments of the query with the same moment of the segment: their dot
    products, cosines in [-1, 1] if the bundle compares by cosine. `score`, the diagonal mean, is their mean, weighted
    if the bundle weighs moments of the target.
    """

    asset_id: str
    path: str
    start_seconds: float
    end_seconds: float
    score: float
    moments: tuple[float, ...]
    media: Mapping[str, Any]
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One media file as the index knows it: `path` is the first of `paths`, which are all with this content.

    `modalities` are those that at least one of its segments has, in the order audio, video.
    """

    asset_id: str
    path: str
    paths: tuple[str, ...]
    num_segments: int
    modalities: tuple[Modality, ...]
    media: Mapping[str, Any]
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class WordQuery:
    """Words to find in file names and metadata, as `service.index.words.to_search_words` gives them.

    Assets with the modality `target` count, of those that pass the filter.
    """

    words: tuple[str, ...]
    target: Modality
    limit: int
    filter: Filter | None = None

    def __post_init__(self) -> None:
        check_modality(self.target)
        check_limit(self.limit)
        if not self.words:
            raise ValueError("a search for words needs at least one")


@dataclass(frozen=True, kw_only=True)
class WordMatch:
    """An asset that was found by words; the span is that of its first segment. It has no score and no moments."""

    asset: Asset
    start_seconds: float
    end_seconds: float
    score: ClassVar[None] = None
    moments: ClassVar[tuple[float, ...]] = ()

    @property
    def asset_id(self) -> str:
        """Id of the asset."""
        return self.asset.asset_id

    @property
    def path(self) -> str:
        """First path of the asset."""
        return self.asset.path

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What was said about the asset."""
        return self.asset.metadata


@dataclass(frozen=True, kw_only=True)
class AssetPage:
    """A page of assets in a stable order, and the cursor of the next page (None after the last)."""

    assets: tuple[Asset, ...]
    next_cursor: str | None


@dataclass(frozen=True, kw_only=True)
class IndexInfo:
    """How large an index is.

    `num_segments` counts those of unfinished assets too, `num_assets` only complete assets, `num_indexed_vectors`
    tracks too if the engine has them; it is 0 while every search compares with all vectors.
    `num_bytes` is what the index takes on its disk; None if a server has it and does not say.
    """

    num_segments: int
    num_assets: int
    num_indexed_vectors: int
    num_bytes: int | None


class Index(Protocol):
    """A store of segments that is searched by track. Calls block, and may come from any thread.

    Any call may fail with IndexFailure or IndexUnavailable; calls that write also with IndexFull.
    """

    is_shared: ClassVar[bool]
    """Whether other processes may write to it at the same time."""

    @property
    def layout(self) -> VectorLayout:
        """Which vectors are stored, and how they compare."""

    @property
    def storage(self) -> Storage:
        """How tracks are stored, and so how far what is read is off."""

    def write_asset(self, segments: Sequence[Segment], *, is_last: bool) -> None:
        """Store an asset: all its segments in one call, or in several calls in the order of their indexes.

        The first call starts at index 0, each next one after the last, and the final one says `is_last`. Only then
        does the asset exist, whole: before, no method shows any of it, and a crash leaves nothing that looks complete.
        When the final call returns, the asset survives a kill and a power cut. Writing an asset that exists replaces
        it, and it stays searchable meanwhile. A call at index 0 starts over. Indexes and starts rise; an index may be
        left out, but not 0. The call fails with InvalidVector or InvalidSegment (no segments, of several assets, out
        of order). After a failure nothing of the call counts, and it may be repeated.
        """

    def search(self, query: VectorQuery) -> list[SegmentMatch]:
        """Find the best segments by diagonal mean among the nearest by pooled vector.

        Returns segments of complete assets, best first; equal scores in the order of asset id and start. Fails with
        InvalidVector if the track is not (T, D), finite and of rows that can be compared, or with NotEmbedded.
        """

    def search_assets(self, query: VectorQuery) -> list[SegmentMatch]:
        """Like `search`, with the best segment of each asset; looks on until it has `limit` assets or none is left."""

    def search_words(self, query: WordQuery) -> list[WordMatch]:
        """Find complete assets by words of names and metadata, best first; `service.index.words` has the order."""

    def get_asset(self, asset_id: str) -> Asset | None:
        """The asset, or None if no complete asset of this id is stored."""

    def get_assets(self, asset_ids: Sequence[str]) -> dict[str, Asset]:
        """Those of some assets that `get_asset` would find, by id, at a fraction of its cost."""

    def find_path(self, path: str) -> Asset | None:
        """The asset with this path; if a file was replaced and both are stored, the one written last."""

    def set_paths(self, asset_id: str, *, paths: Sequence[str], media: Mapping[str, Any]) -> bool:
        """Replace durably the asset's paths and the facts about its file; False if it is not stored.

        Fails with InvalidSegment without a path, or if the facts are not JSON.
        """

    def set_metadata(self, asset_id: str, metadata: Mapping[str, Any]) -> bool:
        """Replace durably what people said about an asset; False if it is not stored, or InvalidSegment."""

    def get_track(self, asset_id: str, *, index: int, modality: Modality) -> Track | None:
        """The track of a segment, float32 (T, D), within 2**-11 of what was written (float16); None if there is none.

        Search with `VectorLayout.to_query` of it.
        """

    def read_pooled(self, asset_ids: Sequence[str], *, index: int, modality: Modality) -> PooledVectors:
        """By asset id, float32 (D,), the mean of the track stored at `index`, unit by cosine; without those of none."""

    def read_segments(self, asset_id: str, *, first_index: int = 0, limit: int) -> list[Segment]:
        """Read up to `limit` segments with their tracks, from an index on, in order: fewer if there are no more.

        They could be written again. An unknown or incomplete asset has none.
        """

    def list_assets(
        self, *, limit: int, cursor: str | None = None, filter: Filter | None = None
    ) -> AssetPage:
        """List complete assets, page by page, in an order that writes and deletions do not disturb.

        `cursor` is the `next_cursor` of the page before, None for the first page. Fails with InvalidCursor if no page
        of this index gave it.
        """

    def delete_asset(self, asset_id: str) -> int:
        """Remove every segment of the asset durably and return how many there were."""

    def delete_assets(self, asset_ids: Sequence[str]) -> int:
        """`delete_asset` of several, faster; after a failure some may be gone, and the call may be repeated."""

    def count_assets(self, *, filter: Filter | None = None) -> int:
        """How many complete assets pass the filter."""

    def count_segments(self, *, modality: Modality | None = None) -> int:
        """How many segments of complete assets are stored, or how many of them have the modality."""

    def check(self) -> None:
        """Raise `IndexDamaged` if stored data was lost."""

    def info(self) -> IndexInfo:
        """How large the index is."""

    def optimize(self) -> None:
        """Build the HNSW graphs. Blocks every other call: not for a process that answers queries."""

    def close(self) -> None:
        """Flush and stop. Safe to call twice."""
