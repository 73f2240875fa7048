"""Search with a media file or a still picture: file → clips → tracks → index → best segment of each asset.

`search_file` is behind every search with a file, over HTTP and by `foley search`; `embed_file` behind every embedding
of one. Both block: a server calls them in a thread. `service.search.stored_query` searches without a file.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from models.media.clip import DecodedMedia, MediaInfo, NoStream
from models.media.query import decode_query, probe_query
from service.decode.decoder import Decoder
from service.encode.embedding import EmbeddedSegment, embed_clips
from service.encode.spool import chunk_segments
from service.index.layout import VectorLayout
from service.search.matching import SearchAnswer, find_matches
from service.search.mixed_query import WeightedText, of_segments, of_text, search_parts
from service.search.options import SearchOptions
from service.search.snapshot import QueryLimits, Snapshot
from service.search.sources import check_embedded, check_options, choose_source, embedded
from service.system.modality import MODALITIES, Modality

Span = tuple[float, float | None]
"""A part [start, end) of a file in seconds; None for its end."""
WHOLE: Span = (0.0, None)


@dataclass(frozen=True, kw_only=True)
class EmbeddedFile:
    """The embedded segments of a file in order of time; `is_partial` if less than 95 % of it could be decoded."""

    media: MediaInfo
    segments: tuple[EmbeddedSegment, ...]
    is_partial: bool
    bundle_id: str
    layout: VectorLayout


def search_file(
    path: Path,
    options: SearchOptions,
    *,
    words: WeightedText | None = None,
    span: Span = WHOLE,
    snapshot: Snapshot,
    decoder: Decoder,
    limits: QueryLimits,
) -> SearchAnswer:
    """Find the library's segments of one modality that belong to a media file, or to a file and words together.

    A file with sound and picture is searched by its picture if sound is wanted, and by its sound if pictures are; only
    segments that overlap `span` count.
    """
    check_options(options, snapshot.bundle)
    # Before anything is decoded: words may be refused.
    said = None if words is None else of_text(words, target=options.target, snapshot=snapshot)
    began = time.monotonic()
    info = decoder.read(path, probe_query, limits.opening_seconds, limits.decode)
    limits = replace(limits, timeout_seconds=limits.left_seconds(time.monotonic() - began))
    has: dict[Modality, bool] = {"audio": info.has_audio, "video": info.has_video}
    present = [modality for modality in MODALITIES if has[modality]]
    source = choose_source(present, target=options.target, source=options.source, bundle=snapshot.bundle)
    embedded = embed_file(path, modality=source, span=span, snapshot=snapshot, decoder=decoder, limits=limits)
    if said is not None:
        parts = [of_segments(embedded.segments, source=source), said]
        return search_parts(parts, options, snapshot=snapshot, is_partial=embedded.is_partial)
    return find_matches(
        embedded.segments, options, source=source, snapshot=snapshot, is_partial=embedded.is_partial
    )


def embed_file(
    path: Path,
    *,
    modality: Modality | None = None,
    span: Span = WHOLE,
    snapshot: Snapshot,
    decoder: Decoder,
    limits: QueryLimits,
) -> EmbeddedFile:
    """Embed every segment of a file, one modality or (None) what the bundle embeds; raises `NoStream` without any."""
    if modality is not None:
        check_embedded(snapshot.bundle, modality)
    modalities = embedded(snapshot.bundle) if modality is None else (modality,)
    segments: list[EmbeddedSegment] = []
    start, end = span[0], math.inf if span[1] is None else span[1]
    first = int(start // snapshot.spec.segment_seconds)
    for chunk in _decode_chunks(
        path, snapshot, first=first, modalities=modalities, decoder=decoder, limits=limits
    ):
        clips = [clip for clip in chunk.clips if clip.start_seconds < end and clip.end_seconds > start]
        segments += embed_clips(clips, encoder=snapshot.encoder, modalities=modalities)
        if chunk.clips and chunk.clips[-1].end_seconds >= end:
            break
    if not segments:
        raise NoStream(f"no segment of the file has {' or '.join(modalities)} that can be decoded")
    return EmbeddedFile(
        media=chunk.info,
        segments=tuple(segments),
        is_partial=chunk.is_partial,
        bundle_id=snapshot.bundle_id,
        layout=snapshot.layout,
    )


def _decode_chunks(
    path: Path,
    snapshot: Snapshot,
    *,
    first: int,
    modalities: Sequence[Modality],
    decoder: Decoder,
    limits: QueryLimits,
) -> Iterator[DecodedMedia]:
    # Only decoding counts: between two chunks the caller encodes.
    used_seconds = 0.0
    count = chunk_segments(snapshot.spec)
    while True:
        snapshot.caller.check()
        began = time.monotonic()
        chunk = decoder.read(
            path,
            decode_query,
            limits.left_seconds(used_seconds),
            snapshot.spec,
            first=first,
            count=count,
            limits=limits.decode,
            modalities=modalities,
        )
        used_seconds += time.monotonic() - began
        yield chunk
        if chunk.is_last:
            return
        first += count
