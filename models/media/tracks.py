"""Which picture and which sound of a file are shown and heard, among all of its streams."""

from __future__ import annotations

import os
import re
from typing import Any

from av.container import InputContainer
from av.stream import Disposition

from models.media.limits import DecodeLimits

CHANNEL_TRACK_CONTAINERS = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "mxf"})
"""Cameras and broadcasters keep each channel of the sound in a track of its own in these."""
MPEG_STREAMS = frozenset({"mpegts", "mpeg"})
"""They may hold several programmes; which tracks belong to one is known only of the best track."""
HEAD_BYTES = 1 << 20
FIRST_PACKET_OF_TABLES = re.compile(rb"\x47[\x40\x60]\x00[\x10-\x1f](.)", re.DOTALL)
"""Of packets with the number 0, and no more than the table in them."""
MAX_PIXEL_ASPECT = 4
"""DV and DVD have pixels of up to 1.46, anamorphic film of 2; a file that claims more is damaged."""
MAX_TRACKS_BEHIND = 8
"""Each is read by itself, segment by segment, where all before it are silent."""
ALTERNATIVES = (
    Disposition.comment
    | Disposition.dub
    | Disposition.karaoke
    | Disposition.hearing_impaired
    | Disposition.visual_impaired
    | Disposition.descriptions
)


def tracks_heard_with(container: InputContainer, best: Any) -> tuple[Any, ...]:
    """The best track and those that belong to it: a camera's or a broadcaster's channels, each a track of its own.

    Tracks in other languages, commentary and the like are alternatives. Matroska and the rest keep alternatives too and
    seldom tag them: there only mono tracks are heard together.
    """
    if container.format.name in MPEG_STREAMS:
        return (best,)

    def belongs(stream: Any) -> bool:
        return (
            stream.codec_context is not None
            and stream.codec_context.sample_rate == best.codec_context.sample_rate
            and stream.language == best.language
            and not stream.disposition & ALTERNATIVES
        )

    tracks = (best, *(stream for stream in container.streams.audio if stream is not best and belongs(stream)))
    are_mono = all(count_channels(stream.codec_context) == 1 for stream in tracks)
    return tracks if are_mono or container.format.name in CHANNEL_TRACK_CONTAINERS else (best,)


def tracks_behind(container: InputContainer, heard: tuple[Any, ...], descriptor: int) -> tuple[Any, ...]:
    """The tracks that are heard where the best ones are silent: other languages, rates and layouts, no commentary."""
    if container.format.name == "mpegts" and count_programmes(os.pread(descriptor, HEAD_BYTES, 0)) != 1:
        return ()
    others = [
        stream
        for stream in container.streams.audio
        if stream not in heard and stream.codec_context is not None and not stream.disposition & ALTERNATIVES
    ]
    return tuple(others[:MAX_TRACKS_BEHIND])


def count_programmes(head: bytes) -> int:
    """Programmes of a transport stream by the first table of them (PAT, ISO 13818-1) in its head; 0 without one."""
    for packet in FIRST_PACKET_OF_TABLES.finditer(head):
        at = packet.end() + packet[1][0]  # behind what the table before left
        table, length = head[at : at + 1], int.from_bytes(head[at + 1 : at + 3], "big") & 0xFFF
        if table == b"\0":
            entries = head[at + 8 : at + length - 1]  # the last 4 bytes are a checksum
            return sum(any(entries[start : start + 2]) for start in range(0, len(entries) - 3, 4))
    return 0


def best_stream(container: InputContainer, kind: Any, *, related: Any = None) -> Any:
    """Return FFmpeg's best stream of the kind, of the related one's programme; no cover art, none without a decoder."""

    def is_usable(stream: Any) -> bool:
        return stream.codec_context is not None and not stream.disposition & stream.disposition.attached_pic

    best = container.streams.best(kind, related)
    if best is None or is_usable(best):
        return best

    # As in FFmpeg's av_find_best_stream: the default stream first, then the higher bit rate, then the earlier one.
    def rank(stream: Any) -> tuple[bool, int]:
        return bool(stream.disposition & stream.disposition.default), stream.bit_rate or 0

    others = [stream for stream in container.streams if stream.type == kind and is_usable(stream)]
    return max(others, key=rank, default=None)


def count_channels(context: Any) -> int:
    """Channels of a stream, whose order is forgotten if it is not one of FFmpeg's own.

    PyAV frees the list of such an order once for every frame, which ends the process. All channels count the same
    here, so only their number matters.
    """
    layout = context.layout
    if " channels (" in layout.name:  # "2 channels (FR+FL)"
        context.layout = f"{layout.nb_channels} channels"
    return int(layout.nb_channels)


def video_facts(stream: Any, limits: DecodeLimits) -> dict[str, Any]:
    """What the header says of the picture, by the names of `MediaInfo`."""
    context = stream.codec_context
    limits.check_frame_size(context.width, context.height)
    rate = stream.average_rate
    return {
        "has_video": True,
        "video_codec": context.codec.canonical_name,
        "width": round(context.width * read_pixel_aspect(stream)),
        "height": context.height,
        "frame_rate": float(rate) if rate else None,
    }


def read_pixel_aspect(stream: Any) -> float:
    """Width of a stored pixel over its height; 1 if the file says nothing, or nonsense."""
    aspect = stream.sample_aspect_ratio
    return float(aspect) if aspect and MAX_PIXEL_ASPECT >= aspect >= 1 / MAX_PIXEL_ASPECT else 1.0


def audio_facts(tracks: tuple[Any, ...], limits: DecodeLimits) -> dict[str, Any]:
    """What the header says of the tracks that are heard together, by the names of `MediaInfo`."""
    counts = [count_channels(stream.codec_context) for stream in tracks]
    context = tracks[0].codec_context
    num_channels = sum(counts)
    limits.check_sound(num_channels, context.sample_rate)
    return {
        "has_audio": True,
        "audio_codec": context.codec.canonical_name,
        "num_channels": num_channels,
        "sample_rate_hz": context.sample_rate,
    }
