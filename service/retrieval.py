"""The way of a query: file → clips → tracks → index → best segment of each asset.

`search_file` is the one function behind `POST /v1/search` and `foley search`, and `SearchAnswer.to_json` is
the one form of its answer; `embed_file` is the same for embeddings. Both block: a server calls them in a
thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.clip import (
    Clip,
    ClipSpec,
    DecodedMedia,
    DecodeLimits,
    MediaInfo,
    NoStream,
    decode_segments,
    probe_media,
)
from service.batching import SegmentEncoder
from service.caller import Caller
from service.decoding import Decoder, DecodeTimedOut
from service.index.contract import Index, Modality, SegmentMatch, Track
from service.scanning import show_path

OPPOSITE: Mapping[Modality, Modality] = {"audio": "video", "video": "audio"}
SEGMENTS_PER_DECODE = 8  # 80 s, 25 MB of frames and samples: what one call to a decode worker returns


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What answers a query: an encoder and the index of its vectors. A request takes one and keeps it.

    Attributes:
        encoder: Turns clips into tracks.
        index: Segments embedded by the same bundle.
        bundle_id: Which bundle that is.
        spec: How its encoder wants clips cut and sampled.
        caller: Who waits for the answer; no work is started for one that left.
    """

    encoder: SegmentEncoder
    index: Index
    bundle_id: str
    spec: ClipSpec
    caller: Caller = field(default_factory=Caller)


@dataclass(frozen=True, kw_only=True)
class QueryLimits:
    """How far a query file is followed.

    Attributes:
        decode: Limits of the file and its streams.
        timeout_seconds: Wall time for decoding all of it.
    """

    decode: DecodeLimits
    timeout_seconds: float = 30.0

    def left_seconds(self, used_seconds: float) -> float:
        """Time that is left for decoding.

        Args:
            used_seconds: Time that decoding took so far.

        Returns:
            Seconds, above 0.

        Raises:
            DecodeTimedOut: If nothing is left.
        """
        if used_seconds >= self.timeout_seconds:
            raise DecodeTimedOut(f"decoding the file took longer than {self.timeout_seconds:g} s")
        return self.timeout_seconds - used_seconds


@dataclass(frozen=True, kw_only=True)
class EmbeddedSegment:
    """One segment of a file.

    Attributes:
        start_seconds: Start on the file's timeline.
        end_seconds: End, exclusive.
        tracks: Unit embeddings, float32, shape (T, D), by modality; without those that the segment lacks.
    """

    start_seconds: float
    end_seconds: float
    tracks: Mapping[Modality, Track]


@dataclass(frozen=True, kw_only=True)
class EmbeddedFile:
    """A file as the encoder sees it.

    Attributes:
        media: Facts about the file.
        segments: Its segments in order of time.
        is_partial: True when less than 95 % of the declared duration could be decoded.
        bundle_id: Which bundle made the embeddings.
    """

    media: MediaInfo
    segments: tuple[EmbeddedSegment, ...]
    is_partial: bool
    bundle_id: str


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The best segment of one asset, and the segment of the query it matches.

    Attributes:
        match: The segment found, with its score and the similarity of each moment.
        query_start_seconds: Start of the query segment that scored best.
        query_end_seconds: Its end, exclusive.
    """

    match: SegmentMatch
    query_start_seconds: float
    query_end_seconds: float

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        match = self.match
        best = int(np.argmax(match.moments))
        length = match.end_seconds - match.start_seconds
        return {
            "asset_id": match.asset_id,
            "path": show_path(match.path),
            "start_seconds": match.start_seconds,
            "end_seconds": match.end_seconds,
            "score": match.score,
            "best_moment": {
                "index": best,
                "time_seconds": match.start_seconds + best / len(match.moments) * length,
                "similarity": match.moments[best],
            },
            "moments": list(match.moments),
            "query_start_seconds": self.query_start_seconds,
            "query_end_seconds": self.query_end_seconds,
        }


@dataclass(frozen=True, kw_only=True)
class SearchAnswer:
    """What a search found, best first, and what it compared.

    Attributes:
        results: One result per asset, by falling score; equal scores by asset id.
        target: Modality of the library that was searched.
        source: Modality of the query file that was used (`from` outside Python).
        bundle_id: The bundle that embedded both.
        num_query_segments: How many segments of the query file were searched with.
        is_partial: True when less than 95 % of the query file could be decoded.
    """

    results: tuple[SearchResult, ...]
    target: Modality
    source: Modality
    bundle_id: str
    num_query_segments: int
    is_partial: bool = False

    def to_json(self) -> dict[str, Any]:
        """The answer as JSON values: the body of the HTTP answer and the output of `--json`."""
        return {
            "results": [result.to_json() for result in self.results],
            "target": self.target,
            "from": self.source,
            "bundle_id": self.bundle_id,
            "query": {"num_segments": self.num_query_segments, "is_partial": self.is_partial},
        }


def search_file(
    path: Path,
    *,
    target: Modality,
    source: Modality | None = None,
    limit: int = 10,
    snapshot: Snapshot,
    decoder: Decoder,
    limits: QueryLimits,
    prefetch: int = 200,
) -> SearchAnswer:
    """Find the library's segments of one modality that belong to a media file.

    Args:
        path: Query file.
        target: Modality to find.
        source: Modality of the file to search by. Default: the opposite of the target where the file has it,
            else the one it has.
        limit: Most assets to return.
        snapshot: Encoder and index.
        decoder: Decodes the file, away from this process.
        limits: How far the file is followed.
        prefetch: Candidates by pooled vector that are scored exactly; more where few assets fill them all.

    Returns:
        The best segment of each asset, best first.
    """
    began = time.monotonic()
    info = decoder.call(probe_media, limits.timeout_seconds, path, limits.decode)
    limits = replace(limits, timeout_seconds=limits.left_seconds(time.monotonic() - began))
    chosen = choose_source(info, target=target, source=source)
    embedded = embed_file(path, modality=chosen, snapshot=snapshot, decoder=decoder, limits=limits)
    results = find_matches(
        embedded.segments, source=chosen, index=snapshot.index, target=target, limit=limit, prefetch=prefetch
    )
    return SearchAnswer(
        results=results,
        target=target,
        source=chosen,
        bundle_id=snapshot.bundle_id,
        num_query_segments=len(embedded.segments),
        is_partial=embedded.is_partial,
    )


def embed_file(
    path: Path,
    *,
    modality: Modality | None = None,
    snapshot: Snapshot,
    decoder: Decoder,
    limits: QueryLimits,
) -> EmbeddedFile:
    """Embed every segment of a media file.

    Args:
        path: Media file.
        modality: Embed this one only; default: whatever the file has.
        snapshot: Encoder, and the name of its bundle.
        decoder: Decodes the file, away from this process.
        limits: How far the file is followed.

    Returns:
        The tracks of all segments, in order of time.

    Raises:
        NoStream: If the file has nothing of the modality.
    """
    modalities: tuple[Modality, ...] = ("audio", "video") if modality is None else (modality,)
    segments: list[EmbeddedSegment] = []
    for chunk in _decode_chunks(path, snapshot, modalities=modalities, decoder=decoder, limits=limits):
        segments += embed_clips(chunk.clips, encoder=snapshot.encoder, modalities=modalities)
    if not segments:
        raise NoStream(f"no segment of the file has {modality or 'sound or picture'} that can be decoded")
    return EmbeddedFile(
        media=chunk.info,
        segments=tuple(segments),
        is_partial=chunk.is_partial,
        bundle_id=snapshot.bundle_id,
    )


def choose_source(info: MediaInfo, *, target: Modality, source: Modality | None) -> Modality:
    """Decide which modality of a query file to search by.

    A file with both is searched by its picture when sound is wanted, and by its sound when pictures are.

    Args:
        info: What the file holds.
        target: Modality to find.
        source: What the caller asked for, if anything.

    Returns:
        The modality to embed.

    Raises:
        NoStream: If the caller asked for one the file does not have.
    """
    present: dict[Modality, bool] = {"audio": info.has_audio, "video": info.has_video}
    if source is not None:
        if not present[source]:
            raise NoStream(f"the file has no {source} stream to search from")
        return source
    return OPPOSITE[target] if present[OPPOSITE[target]] else target


def embed_clips(
    clips: Iterable[Clip], *, encoder: SegmentEncoder, modalities: Sequence[Modality]
) -> list[EmbeddedSegment]:
    """Embed clips.

    Args:
        clips: Segments; those with none of the modalities are left out of the result.
        encoder: Turns clips into tracks.
        modalities: What to embed of each.

    Returns:
        The embedded segments in the order of the clips.
    """
    clips = list(clips)
    tracks: list[dict[Modality, Track]] = [{} for _ in clips]
    for modality in modalities:
        present = [i for i, clip in enumerate(clips) if _has(clip, modality)]
        encoded = _encode([clips[i] for i in present], modality, encoder)
        for i, track in zip(present, encoded, strict=True):
            tracks[i][modality] = track
    return [
        EmbeddedSegment(start_seconds=clip.start_seconds, end_seconds=clip.end_seconds, tracks=found)
        for clip, found in zip(clips, tracks, strict=True)
        if found
    ]


def find_matches(
    queries: Sequence[EmbeddedSegment],
    *,
    source: Modality,
    index: Index,
    target: Modality,
    limit: int,
    prefetch: int = 200,
) -> tuple[SearchResult, ...]:
    """Search with every segment of a query and keep the best match of each asset.

    Args:
        queries: Embedded segments that have the modality `source`.
        source: Which of their tracks to search by.
        index: What to search.
        target: Modality to find.
        limit: Most assets to return.
        prefetch: Candidates by pooled vector for each segment; more where few assets fill them all.

    Returns:
        One result per asset, best first; equal scores by asset id.
    """
    best: dict[str, SearchResult] = {}
    for query in queries:
        found = index.search_assets(query.tracks[source], target=target, limit=limit, prefetch=prefetch)
        for match in found:
            held = best.get(match.asset_id)
            if held is None or _rank(match) < _rank(held.match):
                best[match.asset_id] = SearchResult(
                    match=match, query_start_seconds=query.start_seconds, query_end_seconds=query.end_seconds
                )
    # An asset among the best overall is among the best of one segment: no list had to be longer than `limit`.
    return tuple(sorted(best.values(), key=lambda result: _rank(result.match))[:limit])


def _rank(match: SegmentMatch) -> tuple[float, str, float]:
    return (-match.score, match.asset_id, match.start_seconds)


def _has(clip: Clip, modality: Modality) -> bool:
    return (clip.samples if modality == "audio" else clip.frames) is not None


def _encode(clips: Sequence[Clip], modality: Modality, encoder: SegmentEncoder) -> NDArray[np.float32]:
    if modality == "audio":
        return encoder.encode_audio([clip.samples for clip in clips if clip.samples is not None])
    return encoder.encode_video([clip.frames for clip in clips if clip.frames is not None])


def _decode_chunks(
    path: Path, snapshot: Snapshot, *, modalities: Sequence[Modality], decoder: Decoder, limits: QueryLimits
) -> Iterator[DecodedMedia]:
    # Only decoding counts: between two chunks the caller encodes.
    used_seconds = 0.0
    first = 0
    while True:
        snapshot.caller.check()
        began = time.monotonic()
        chunk = decoder.call(
            decode_segments,
            limits.left_seconds(used_seconds),
            path,
            snapshot.spec,
            first=first,
            count=SEGMENTS_PER_DECODE,
            limits=limits.decode,
            modalities=modalities,
        )
        used_seconds += time.monotonic() - began
        yield chunk
        if chunk.is_last:
            return
        first += SEGMENTS_PER_DECODE
