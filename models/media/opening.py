"""A media file, opened safely: limits, errors, the streams that count, and facts about the file.

FFmpeg reads much that is not media: playlists open other files, text plays as video. So a file is opened here, once,
checked, and handed over as a descriptor with a list of the container formats it may be:

    with open_media("holiday.mp4") as media:
        print(media.info)

A process that may open no file itself is given the descriptor of `open_regular` in place of the path.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import av
import av.error
from av.container import InputContainer
from av.stream import Discard

from models.media.unreadable import (
    BrokenMedia,
    ClipTooLong,
    EmptyFile,
    NoStream,
    NotARegularFile,
    NotMedia,
    TooComplex,
)

CONTAINERS = (
    "mov,matroska,mpegts,mpeg,avi,flv,asf,ogg,wav,w64,flac,mp3,aac,aiff,ac3,eac3,amr,amrnb,amrwb,caf,mxf"
)
"""Formats of sound and moving pictures that refer to no other file: no playlists (hls, concat, dash, sdp), image
sequences, text (tty, lrc, subtitles) or devices."""


WRAPPING_CONTAINERS = frozenset({"mpegts", "mpeg"})
LAST_TICK_SECONDS = 2**33 / 90_000
"""Their clock turns over after 26.5 h."""

MediaSource = Path | str | int
"""A regular file by its path, or by a descriptor that is open for reading; the latter stays open."""


@dataclass(frozen=True, kw_only=True)
class DecodeLimits:
    """Limits for a file. They apply to the decoded content, not only to the header."""

    max_duration_seconds: float = 4 * 3600.0
    """Longest file, declared or decoded, in seconds."""
    max_frame_width: int = 8192
    """Longer side of a picture, in pixels."""
    max_frame_height: int = 4320
    """Shorter side of a picture, in pixels."""
    max_streams: int = 32
    """Streams of any kind in one file."""
    max_channels: int = 64
    """Channels of the sound."""
    max_sample_rate_hz: int = 768_000
    """Sample rate of the sound."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")

    @property
    def max_pixels(self) -> int:
        """Pixels of the largest picture."""
        return self.max_frame_width * self.max_frame_height

    def check_duration(self, seconds: float) -> None:
        """Refuse a file that is too long.

        Args:
            seconds: Length of the file, or how far it was seen to reach.

        Raises:
            ClipTooLong: If that is more than the limit.
        """
        if seconds > self.max_duration_seconds:
            raise ClipTooLong(
                f"a file may last at most {self.max_duration_seconds:g} s, this one has {seconds:.1f} s"
            )

    def check_frame_size(self, width: int, height: int) -> None:
        """Refuse a picture that is too large, upright or on its side.

        Args:
            width: Width in pixels.
            height: Height in pixels.

        Raises:
            TooComplex: If it is larger than the limits.
        """
        if max(width, height) > self.max_frame_width or min(width, height) > self.max_frame_height:
            limit = f"{self.max_frame_width} x {self.max_frame_height}"
            raise TooComplex(f"a picture may have at most {limit} pixels, this one has {width} x {height}")

    def check_sound(self, num_channels: int, sample_rate_hz: int) -> None:
        """Refuse sound of too many channels or too high a rate.

        Args:
            num_channels: Channels of one stream.
            sample_rate_hz: Its sample rate.

        Raises:
            TooComplex: If either is more than the limit.
        """
        if num_channels > self.max_channels:
            raise TooComplex(
                f"sound may have at most {self.max_channels} channels, this one has {num_channels}"
            )
        if sample_rate_hz > self.max_sample_rate_hz:
            raise TooComplex(
                f"sound may have at most {self.max_sample_rate_hz} Hz, this one has {sample_rate_hz}"
            )

    def check_streams(self, num_streams: int) -> None:
        """Refuse a file of too many streams.

        Args:
            num_streams: Streams of any kind.

        Raises:
            TooComplex: If there are more than the limit.
        """
        if num_streams > self.max_streams:
            raise TooComplex(
                f"a file may have at most {self.max_streams} streams, this one has {num_streams}"
            )


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
    """Channels of the sound."""
    sample_rate_hz: int | None = None
    """Stored sample rate of the sound."""


@dataclass(frozen=True, kw_only=True)
class Media:
    """An open file with the streams that were chosen from it.

    Attributes:
        container: The open FFmpeg container.
        video: Best moving picture, or None.
        audio: Best sound, or None.
        origin_seconds: Timestamp that is time 0 of the asset: the earliest start of the chosen streams.
        info: Facts from the header.
    """

    container: InputContainer
    video: Any
    audio: Any
    origin_seconds: float
    info: MediaInfo


@contextlib.contextmanager
def open_media(source: MediaSource, limits: DecodeLimits | None = None) -> Iterator[Media]:
    """Open a media file and choose its best picture and sound by FFmpeg's own rule.

    Args:
        source: A regular file; a link is refused, so resolve it first where links are wanted.
        limits: What the file may ask for.

    Yields:
        Media: The open file; it closes at the end of the block.
    """
    limits = limits or DecodeLimits()
    with open_regular(source) as (descriptor, status):
        container = _open_container(descriptor, limits)
        try:
            yield _choose_streams(container, status, limits)
        finally:
            container.close()


def hash_media(source: MediaSource) -> tuple[str, int, int]:
    """Hash the content of a file, opened as safely as for decoding.

    Args:
        source: A regular file.

    Returns:
        sha256 as 64 hex digits, the size in bytes and the time of last change in nanoseconds since 1970.
    """
    with open_regular(source) as (descriptor, status):
        with os.fdopen(os.dup(descriptor), "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return digest, status.st_size, status.st_mtime_ns


@contextlib.contextmanager
def open_regular(source: MediaSource) -> Iterator[tuple[int, os.stat_result]]:
    """Open a regular file without following a link at its name or waiting for a pipe.

    Args:
        source: Path of the file, or a descriptor of it that nobody else reads at the same time.

    Yields:
        tuple[int, os.stat_result]: A descriptor at the start of the file, closed at the end of the block, and facts.

    Raises:
        NotARegularFile: If it cannot be opened, or is something else.
        EmptyFile: If it has no bytes.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.dup(source) if isinstance(source, int) else os.open(source, flags)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise NotARegularFile(f"the file cannot be opened: {reason}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = stat.filemode(status.st_mode)[0]
            raise NotARegularFile(f"only regular files are read, this one is of type {kind!r}")
        if status.st_size == 0:
            raise EmptyFile("the file is empty: 0 bytes")
        os.lseek(descriptor, 0, os.SEEK_SET)  # a copy of a descriptor shares its place with it
        yield descriptor, status
    finally:
        os.close(descriptor)


def _open_container(descriptor: int, limits: DecodeLimits) -> InputContainer:
    options = {
        "format_whitelist": CONTAINERS,
        "protocol_whitelist": "fd",
        "fd": str(descriptor),
        "advanced_editlist": "0",  # a 225 KB file of edits takes 2 GB otherwise
        "enable_drefs": "0",
        "max_streams": str(limits.max_streams + 1),
        "max_pixels": str(2 * limits.max_pixels),
    }
    try:
        # The open file itself: no name is looked up, and a process that may open no file can read it.
        return av.open("fd:", "r", options=options, metadata_errors="replace")
    except MemoryError as error:
        limit = limits.max_streams
        raise TooComplex(f"the file has more than {limit} streams, or needs too much memory") from error
    except (av.error.FFmpegError, ValueError, RuntimeError) as error:
        raise NotMedia("this is not a supported media file, or its header is damaged") from error


def _choose_streams(container: InputContainer, status: os.stat_result, limits: DecodeLimits) -> Media:
    limits.check_streams(len(container.streams))
    video = _best_stream(container, "video")
    audio = _best_stream(container, "audio")
    chosen = [stream for stream in (video, audio) if stream is not None]
    if not chosen:
        _explain_none_usable(container)
    for stream in container.streams:
        if stream not in chosen:
            stream.discard = Discard.all
    origin = _origin(container, chosen)
    end = _declared_end(container, chosen)
    info = MediaInfo(
        container=container.format.name,
        size_bytes=status.st_size,
        modified_ns=status.st_mtime_ns,
        duration_seconds=None if end is None else max(0.0, end - origin),
        **(_video_facts(video, limits) if video is not None else {}),
        **(_audio_facts(audio, limits) if audio is not None else {}),
    )
    return Media(container=container, video=video, audio=audio, origin_seconds=origin, info=info)


def _explain_none_usable(container: InputContainer) -> NoReturn:
    """Raise for a file without sound and picture, or for one whose header is wrong about them."""
    for stream in container.streams.audio:
        context = stream.codec_context
        if context is not None and not (context.sample_rate and context.layout.nb_channels):
            # FFmpeg takes more channels than it can count, 512, for none.
            found = f"{context.layout.nb_channels} channels at {context.sample_rate} Hz"
            raise BrokenMedia(f"the file declares sound, but its header is invalid: {found}")
    raise NoStream(f"no sound and no moving picture with a decoder in {len(container.streams)} streams")


def _best_stream(container: InputContainer, kind: Any) -> Any:
    """Return FFmpeg's best stream of the kind; if that is cover art or has no decoder, the best of the others."""

    def is_usable(stream: Any) -> bool:
        return stream.codec_context is not None and not stream.disposition & stream.disposition.attached_pic

    best = container.streams.best(kind)
    if best is None or is_usable(best):
        return best

    # As in FFmpeg's av_find_best_stream: the default stream first, then the higher bit rate, then the earlier one.
    def rank(stream: Any) -> tuple[bool, int]:
        return bool(stream.disposition & stream.disposition.default), stream.bit_rate or 0

    others = [stream for stream in container.streams if stream.type == kind and is_usable(stream)]
    return max(others, key=rank, default=None)


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
    if container.format.name in WRAPPING_CONTAINERS and end is not None and end > LAST_TICK_SECONDS:
        return None  # FFmpeg took a clock that starts anew for one that turned over
    return end


def _first_tick(stream: Any) -> int:
    """Where what is stored begins: AAC in MP4 has a frame before its start, from which only the decoder profits."""
    start = stream.start_time or 0
    entries = stream.index_entries
    return min(start, entries[0].timestamp) if stream.type == "audio" and len(entries) else start


def _video_facts(stream: Any, limits: DecodeLimits) -> dict[str, Any]:
    context = stream.codec_context
    limits.check_frame_size(context.width, context.height)
    rate = stream.average_rate
    return {
        "has_video": True,
        "video_codec": context.codec.canonical_name,
        "width": context.width,
        "height": context.height,
        "frame_rate": float(rate) if rate else None,
    }


def _audio_facts(stream: Any, limits: DecodeLimits) -> dict[str, Any]:
    context = stream.codec_context
    num_channels = _count_channels(context)
    limits.check_sound(num_channels, context.sample_rate)
    return {
        "has_audio": True,
        "audio_codec": context.codec.canonical_name,
        "num_channels": num_channels,
        "sample_rate_hz": context.sample_rate,
    }


def _count_channels(context: Any) -> int:
    """Channels of a stream, whose order is forgotten if it is not one of FFmpeg's own.

    PyAV frees the list of such an order once for every frame, which ends the process. All channels count the same
    here, so only their number matters.
    """
    layout = context.layout
    if " channels (" in layout.name:  # "2 channels (FR+FL)"
        context.layout = f"{layout.nb_channels} channels"
    return int(layout.nb_channels)
