"""A media file, opened safely: limits, errors, the streams that count, and facts about the file.

FFmpeg reads much that is not media: playlists open other files, text plays as video. So a file is opened here, once,
checked, and handed over as a descriptor with a list of the container formats it may be:

    with open_media("holiday.mp4") as media:
        print(media.info)

A process that may open no file itself is given the descriptor of `open_regular` in place of the path.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import av
import av.error
from av.container import InputContainer
from av.stream import Discard

from models.media.edits import EVERYTHING, MIN_CUT_SECONDS, Edits, Spans, leave_padding, read_edits
from models.media.foreign import refuse_encrypted, refuse_picture
from models.media.limits import DecodeLimits
from models.media.regular import MediaSource, clamp_time_ns, open_regular
from models.media.said import Said, join, read_packet, read_tags, read_wave
from models.media.source_time import read_source_time
from models.media.stillness import all_known
from models.media.tracks import (
    MPEG_STREAMS,
    audio_facts,
    best_stream,
    tracks_behind,
    tracks_heard_with,
    video_facts,
)
from models.media.unreadable import BrokenMedia, NoStream, NotMedia, TooComplex

CONTAINERS = (
    "mov,matroska,mpegts,mpeg,mpegvideo,avi,flv,asf,dv,ogg,wav,w64,flac,wv,tta,ape,mp3,aac,aiff,au,ac3,eac3,amr,amrnb,amrwb,"
    "caf,mxf"
)
"""Formats of sound and moving pictures that refer to no other file: no playlists (hls, concat, dash, sdp), image
sequences, text (tty, lrc, subtitles) or devices."""


MAX_STREAMS_OF_ANY_KIND = 1000

ESTIMATED_CONTAINERS = frozenset({"mp3", "aac", "ac3", "eac3", "amr", "amrnb", "amrwb", "mpegvideo", "dv"})
"""Their length is FFmpeg's estimate from the size and one bit rate, which is no declaration; an MP3 may declare one."""
MP3_LENGTH_TAGS = (b"Xing", b"Info", b"VBRI")
MP3_HEAD_BYTES = 1 << 10

LAST_TICK_SECONDS = 2**33 / 90_000
"""The clock of MPEG streams turns over after 26.5 h."""


@dataclass(frozen=True, kw_only=True)
class MediaInfo:
    """Facts about a media file, for people and filters; plain values only, so that it becomes JSON."""

    container: str
    """FFmpeg's name of the container format, such as `mov,mp4,m4a,3gp,3g2,mj2`."""
    size_bytes: int
    """Size of the file that was opened."""
    modified_ns: int
    """Its time of last change, in nanoseconds since 1970."""
    duration_seconds: float | None
    """From the earliest start to the latest end of the chosen streams; None where the header does not say."""
    is_duration_measured: bool = False
    """True after decoding to the end, False while the length is what the header declares."""
    has_audio: bool = False
    """Whether there is a sound stream with a decoder."""
    has_video: bool = False
    """Whether there is a moving picture with a decoder; cover art does not count."""
    video_codec: str | None = None
    """Name of the codec, such as `h264`."""
    width: int | None = None
    """Width of the picture as shown, in pixels, after rotation where a frame was decoded."""
    height: int | None = None
    """Height of the picture as shown, in pixels."""
    frame_rate: float | None = None
    """Average frames a second."""
    rotation_degrees: int = 0
    """Turn that shows the stored picture upright, counterclockwise: -90 means a quarter turn clockwise."""
    audio_codec: str | None = None
    """Name of the codec, such as `aac`."""
    num_channels: int | None = None
    """Channels of the sound, over all tracks that are heard together."""
    sample_rate_hz: int | None = None
    """Stored sample rate of the sound."""
    is_out_of_phase: bool = False
    """Whether the channels cancel each other, so that the loudest of them was taken in place of their mean."""
    is_silent: bool | None = None
    """Whether all of the sound is silence, or no louder than dither of 16 bits; None if not judged."""
    is_static: bool | None = None
    """Whether nothing changes in the picture of any segment: one colour, a still, test bars; None if not judged."""
    packets_hash: str | None = None
    """Hash of the coded sound and picture, the same in files that differ in their tags alone; null if unknown."""
    timecode: str | None = None
    """Timecode of the first picture, `01:00:00:00`, with `;` before the frames if frames are dropped in counting."""
    time_reference_samples: int | None = None
    """When the sound begins by its Broadcast Wave header or iXML: samples since midnight."""
    said: Said = field(default_factory=dict)
    """What the file says of itself, by key (`title`, `artist`, `scene` …): text, and `keywords` as a list."""

    def after(self, earlier: MediaInfo | None) -> MediaInfo:
        """These facts of a part of the file, joined with those of the parts before it; None if it is the first."""
        if earlier is None:
            return self
        return replace(
            self,
            is_out_of_phase=self.is_out_of_phase or earlier.is_out_of_phase,
            is_silent=all_known((earlier.is_silent, self.is_silent)),
            is_static=all_known((earlier.is_static, self.is_static)),
            packets_hash=self.packets_hash or earlier.packets_hash,
            said=earlier.said,
        )


@dataclass(frozen=True, kw_only=True)
class Media:
    """An open file with the streams that were chosen from it.

    Attributes:
        container: The open FFmpeg container.
        video: Best moving picture, or None.
        audio: Best sound, or None.
        sounds: The tracks that are heard together, the best one first.
        behind: The tracks that are heard where those are silent.
        origin_seconds: Timestamp that is time 0 of the asset: the earliest start of the chosen streams.
        info: Facts from the header.
        shown: By index, when a stream is shown and heard, where its edit list cuts something away or leaves it empty.
    """

    container: InputContainer
    video: Any
    audio: Any
    sounds: tuple[Any, ...]
    behind: tuple[Any, ...]
    origin_seconds: float
    info: MediaInfo
    shown: Mapping[int, Spans] = field(default_factory=dict)


@contextlib.contextmanager
def open_media(
    source: MediaSource, limits: DecodeLimits | None = None, behind: int | None = None
) -> Iterator[Media]:
    """Open a media file and choose its best picture and sound by FFmpeg's own rule.

    Args:
        source: A regular file; a link is refused, so resolve it first where links are wanted.
        limits: What the file may ask for.
        behind: Which of the tracks behind the best sound to take in its place.

    Yields:
        Media: The open file; it closes at the end of the block.
    """
    limits = limits or DecodeLimits()
    with open_regular(source) as (descriptor, _):
        refuse_picture(descriptor)
        edits = read_edits(descriptor)
        limits.check_edits(edits.num_entries)
        container = _open_container(descriptor, limits, edits)
        try:
            refuse_encrypted(descriptor, container.format.name)
            media = _choose_streams(container, descriptor, limits, behind)
            if _is_length_estimated(container, descriptor):
                media = replace(media, info=replace(media.info, duration_seconds=None))
            yield _cut(media, edits)
        finally:
            container.close()


def _open_container(descriptor: int, limits: DecodeLimits, edits: Edits) -> InputContainer:
    options = {
        "format_whitelist": CONTAINERS,
        "protocol_whitelist": "fd",
        "fd": str(descriptor),
        "advanced_editlist": str(int(edits.are_many)),
        "enable_drefs": "0",
        "max_streams": str(MAX_STREAMS_OF_ANY_KIND),
        "max_pixels": str(2 * limits.max_pixels),
    }
    try:
        # The open file itself: no name is looked up, and a process that may open no file can read it.
        return av.open("fd:", "r", options=options, metadata_errors="surrogateescape")
    except MemoryError as error:
        limit = MAX_STREAMS_OF_ANY_KIND
        raise TooComplex(
            f"the file has {limit} streams of any kind or more, or needs too much memory"
        ) from error
    except (av.error.FFmpegError, ValueError, RuntimeError) as error:
        refuse_encrypted(descriptor, "mp4")  # in fragments of which FFmpeg lacks a list
        raise NotMedia("this is not a supported media file, or its header is damaged") from error


def _choose_streams(
    container: InputContainer, descriptor: int, limits: DecodeLimits, behind: int | None
) -> Media:
    limits.check_streams(len(container.streams.video) + len(container.streams.audio))
    video = best_stream(container, "video")
    audio = best_stream(container, "audio", related=video)
    sounds = tracks_heard_with(container, audio) if audio is not None else ()
    tracks_behind_it = tracks_behind(container, sounds, descriptor)
    chosen = [*sounds] if video is None else [video, *sounds]
    if not chosen:
        _explain_none_usable(container)
    origin = _origin(container, chosen)
    if behind is not None:
        sounds = (tracks_behind_it[behind],)
        audio = sounds[0]
        chosen = [*sounds] if video is None else [video, *sounds]
    for stream in container.streams:
        if stream not in chosen:
            stream.discard = Discard.all
    end, status = _declared_end(container, chosen), os.fstat(descriptor)
    said, samples = read_wave(descriptor)
    info = MediaInfo(
        container=container.format.name,
        size_bytes=status.st_size,
        modified_ns=clamp_time_ns(status.st_mtime_ns),
        duration_seconds=None if end is None else max(0.0, end - origin),
        **(video_facts(video, limits) if video is not None else {}),
        **(audio_facts(sounds, limits) if sounds else {}),
        **{"time_reference_samples": samples, **read_source_time(container)},
        said=join(read_packet(descriptor, container), said, read_tags(container)),
    )
    return Media(
        container=container,
        video=video,
        audio=audio,
        sounds=sounds,
        behind=tracks_behind_it,
        origin_seconds=origin,
        info=info,
    )


def _cut(media: Media, edits: Edits) -> Media:
    """Show each stream when its edit list does, and let the file end there; what an end pads is left alone."""
    if len(edits.shown) != len(media.container.streams):
        return media
    origin, shown, ends = media.origin_seconds, dict[int, Spans](), []
    for stream in media.sounds if media.video is None else (media.video, *media.sounds):
        spans = edits.shown[stream.index]
        stored = (_first_tick(stream) + stream.duration) * stream.time_base if stream.duration else math.inf
        spans = leave_padding(spans, float(stored))
        ends.append(min(float(stored), spans[-1][1]) if spans else float(stored))
        if spans and spans != EVERYTHING:
            shown[stream.index] = tuple((low - origin, high - origin) for low, high in spans)
    media = replace(media, shown=shown)
    seconds, declared = max(ends) - origin, media.info.duration_seconds
    if declared is None or seconds > declared - MIN_CUT_SECONDS:
        return media
    return replace(media, info=replace(media.info, duration_seconds=seconds))


def _explain_none_usable(container: InputContainer) -> NoReturn:
    """Raise for a file without sound and picture, or for one whose header is wrong about them."""
    for stream in container.streams.audio:
        context = stream.codec_context
        if context is not None and not (context.sample_rate and context.layout.nb_channels):
            # FFmpeg takes more channels than it can count, 512, for none.
            found = f"{context.layout.nb_channels} channels at {context.sample_rate} Hz"
            raise BrokenMedia(f"the file declares sound, but its header is invalid: {found}")
    raise NoStream(f"no sound and no moving picture with a decoder in {len(container.streams)} streams")


def _origin(container: InputContainer, streams: list[Any]) -> float:
    starts = [stream.start_time * stream.time_base for stream in streams if stream.start_time is not None]
    start = float(min(starts, default=0))
    # What lies before 0 in an MP4 is what its edit list cuts away.
    return max(0.0, start) if "mp4" in container.format.name else start


def _declared_end(container: InputContainer, streams: list[Any]) -> float | None:
    ends = [
        float((_first_tick(stream) + stream.duration) * stream.time_base)
        for stream in streams
        if stream.duration is not None
    ]
    if len(ends) < len(streams) and container.duration is not None:
        ends.append(((container.start_time or 0) + container.duration) / av.time_base)
    end = max(ends, default=None)
    if container.format.name in MPEG_STREAMS and end is not None and end > LAST_TICK_SECONDS:
        return None  # FFmpeg took a clock that starts anew for one that turned over
    return end


def _is_length_estimated(container: InputContainer, descriptor: int) -> bool:
    """Whether the file itself says nothing of its length."""
    if container.format.name not in ESTIMATED_CONTAINERS:
        return False
    if container.format.name != "mp3":
        return True
    head = os.pread(descriptor, 10, 0)
    # An ID3v2 tag counts its bytes in four groups of seven bits.
    start = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=False))
    frame = os.pread(descriptor, MP3_HEAD_BYTES, start if head[:3] == b"ID3" else 0)
    return not any(tag in frame for tag in MP3_LENGTH_TAGS)


def _first_tick(stream: Any) -> int:
    """Where what is stored begins: AAC in MP4 has a frame before its start, from which only the decoder profits."""
    start = stream.start_time or 0
    entries = stream.index_entries
    return min(start, entries[0].timestamp) if stream.type == "audio" and len(entries) else start
