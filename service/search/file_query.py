"""The way of a query: file → clips → tracks → index → best segment of each asset.

`search_file` is the one function behind a search with a file, over HTTP and by `foley search`; `embed_file` is the
same for embeddings. Both block: a server calls them in a thread. `service.search.stored_query` searches without a file.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from models.media.clip import (
    DecodedMedia,
    MediaInfo,
    NoStream,
    decode_segments,
    probe_media,
)
from service.decode.decoder import Decoder
from service.encode.embedding import EmbeddedSegment, embed_clips
from service.search.matching import SearchAnswer, SearchOptions, find_matches
from service.search.snapshot import QueryLimits, Snapshot
from service.system.modality import OPPOSITE, Modality

SEGMENTS_PER_DECODE = 8  # 80 s, 25 MB of frames and samples: what one call to a decode worker returns


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


def search_file(
    path: Path,
    *,
    target: Modality,
    source: Modality | None = None,
    choice: SearchOptions | None = None,
    snapshot: Snapshot,
    decoder: Decoder,
    limits: QueryLimits,
) -> SearchAnswer:
    """Find the library's segments of one modality that belong to a media file.

    Args:
        path: Query file.
        target: Modality to find.
        source: Modality of the file to search by. Default: the opposite of the target where the file has it,
            else the one it has.
        choice: Which results are wanted; default: the ten best.
        snapshot: Encoder and index.
        decoder: Decodes the file, away from this process.
        limits: How far the file is followed.

    Returns:
        The best segment of each asset, best first.
    """
    began = time.monotonic()
    info = decoder.read(path, probe_media, limits.opening_seconds, limits.decode)
    limits = replace(limits, timeout_seconds=limits.left_seconds(time.monotonic() - began))
    chosen = choose_source(info, target=target, source=source)
    embedded = embed_file(path, modality=chosen, snapshot=snapshot, decoder=decoder, limits=limits)
    matches = find_matches(
        embedded.segments,
        source=chosen,
        index=snapshot.index,
        target=target,
        choice=choice or SearchOptions(),
        calibration=snapshot.calibration,
    )
    return SearchAnswer(
        results=matches.results,
        target=target,
        source=chosen,
        bundle_id=snapshot.bundle_id,
        release_id=snapshot.release_id,
        num_query_segments=len(embedded.segments),
        is_partial=embedded.is_partial,
        next_offset=matches.next_offset,
        reason=matches.reason,
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


def _decode_chunks(
    path: Path, snapshot: Snapshot, *, modalities: Sequence[Modality], decoder: Decoder, limits: QueryLimits
) -> Iterator[DecodedMedia]:
    # Only decoding counts: between two chunks the caller encodes.
    used_seconds = 0.0
    first = 0
    while True:
        snapshot.caller.check()
        began = time.monotonic()
        chunk = decoder.read(
            path,
            decode_segments,
            limits.left_seconds(used_seconds),
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
