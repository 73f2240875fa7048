"""A media file, opened safely: limits, errors, the streams that count, and facts about the file.

FFmpeg reads many things that are not media (playlists open other files, text can be played as video), so a file is opened
once by us, checked, and handed over as a descriptor with a list of the container formats it may be:

    with open_media("holiday.mp4") as media:
        print(media.info)
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import av
import av.error
from av.container import InputContainer
from av.stream import Discard

# Containers of sound and moving pictures that refer to no other file. Playlists (hls, concat, dash, sdp), image
# sequences, text (tty, lrc, subtitles) and devices stay off the list.
CONTAINERS = (
    "mov,matroska,mpegts,mpeg,avi,flv,asf,ogg,wav,w64,flac,mp3,aac,aiff,ac3,eac3,amr,amrnb,amrwb,caf,mxf"
)


class UnreadableClip(Exception):
    """The file cannot be used as a clip; `code` is the stable name of the reason."""

    code: ClassVar[str] = "unreadable"


class NotARegularFile(UnreadableClip):
    """The path is a folder, link, pipe or device, or cannot be opened at all."""

    code = "not_a_file"


class EmptyFile(UnreadableClip):
    """The file has no bytes."""

    code = "empty"


class NotMedia(UnreadableClip):
    """The content is in none of the container formats we read."""

    code = "not_media"


class NoStream(UnreadableClip):
    """The file has no sound or picture of the kind that is asked for."""

    code = "no_stream"


class BrokenMedia(UnreadableClip):
    """The file opens, but nothing in it decodes."""

    code = "broken_media"


class ClipTooLong(UnreadableClip):
    """The file lasts longer than the limit."""

    code = "too_long"


class TooComplex(UnreadableClip):
    """The file has too many streams or channels, or too large a picture."""

    code = "too_complex"


@dataclass(frozen=True, kw_only=True)
class DecodeLimits:
    """What a file may ask of the decoder. What decodes is held to the limits, whatever the header says."""

    max_duration_seconds: float = 4 * 3600.0
    """Longest file, declared or decoded, in seconds."""
    max_frame_width: int = 8192
    """Longer side of a picture, in pixels."""
    max_frame_height: int = 4320
    """Shorter side of a picture, in pixels."""
    max_streams: int = 32
    """Streams of any kind in one file."""
    max_channels: int = 64
    """Channels of the chosen audio stream."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")

    def check_frame_size(self, width: int, height: int) -> None:
        """Refuse a picture that is too large.

        Args:
            width: Width in pixels.
            height: Height in pixels.

        Raises:
            TooComplex: If the picture is larger than the limits, held upright or on its side.
        """
        if max(width, height) > self.max_frame_width or min(width, height) > self.max_frame_height:
            limit = f"{self.max_frame_width} x {self.max_frame_height}"
            raise TooComplex(f"picture must be at most {limit} pixels, got {width} x {height}")


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
    """Length of the chosen streams from the earliest start to the latest end; None where the header does not say."""
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
def open_media(path: Path | str, limits: DecodeLimits | None = None) -> Iterator[Media]:
    """Open a media file and choose its best picture and sound by FFmpeg's own rule.

    Args:
        path: A regular file; a link is refused, so resolve it first where links are wanted.
        limits: What the file may ask for.

    Yields:
        The open file; it closes at the end of the block.
    """
    limits = limits or DecodeLimits()
    with _open_regular(path) as (descriptor, status):
        if status.st_size == 0:
            raise EmptyFile("the file is empty: 0 bytes")
        container = _open_container(descriptor, limits)
        try:
            yield _choose_streams(container, status, limits)
        finally:
            container.close()


def hash_media(path: Path | str) -> tuple[str, int, int]:
    """Hash the content of a file, opened as safely as for decoding.

    Args:
        path: A regular file.

    Returns:
        sha256 as 64 hex digits, the size in bytes and the time of last change in nanoseconds.

    Raises:
        EmptyFile: If the file has no bytes.
    """
    with _open_regular(path) as (descriptor, status):
        if status.st_size == 0:
            raise EmptyFile("the file is empty: 0 bytes")
        with os.fdopen(os.dup(descriptor), "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return digest, status.st_size, status.st_mtime_ns


@contextlib.contextmanager
def _open_regular(path: Path | str) -> Iterator[tuple[int, os.stat_result]]:
    """Open for reading without following a last link, waiting for a pipe, or touching anything but a regular file."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as error:
        raise NotARegularFile(
            f"the file cannot be opened: {getattr(error, 'strerror', None) or error}"
        ) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NotARegularFile(
                f"only regular files are read, this is of type {stat.filemode(status.st_mode)[0]}"
            )
        yield descriptor, status
    finally:
        os.close(descriptor)


def _open_container(descriptor: int, limits: DecodeLimits) -> InputContainer:
    options = {
        "format_whitelist": CONTAINERS,
        "protocol_whitelist": "file",
        "advanced_editlist": "0",  # a 225 KB file of edits takes 2 GB otherwise
        "enable_drefs": "0",
        "max_streams": str(limits.max_streams + 1),
        "max_pixels": str(limits.max_frame_width * limits.max_frame_height),
    }
    try:
        container = av.open(
            f"/proc/self/fd/{descriptor}", mode="r", options=options, metadata_errors="replace"
        )
    except MemoryError as error:
        raise TooComplex(
            f"the file has more than {limits.max_streams} streams or needs too much memory"
        ) from error
    except (av.error.FFmpegError, ValueError, RuntimeError) as error:
        raise NotMedia(
            "the content is not in a media format that is read here, or its header is damaged"
        ) from error
    if len(container.streams) > limits.max_streams:
        num_streams = len(container.streams)
        container.close()
        raise TooComplex(f"a file may have {limits.max_streams} streams, got {num_streams}")
    return container


def _choose_streams(container: InputContainer, status: os.stat_result, limits: DecodeLimits) -> Media:
    video = _best_stream(container, "video")
    audio = _best_stream(container, "audio")
    if video is None and audio is None:
        raise NoStream(f"no sound and no moving picture that decodes among {len(container.streams)} streams")
    if video is not None:
        limits.check_frame_size(video.codec_context.width, video.codec_context.height)
    if audio is not None and audio.codec_context.layout.nb_channels > limits.max_channels:
        num_channels = audio.codec_context.layout.nb_channels
        raise TooComplex(f"sound may have {limits.max_channels} channels, got {num_channels}")
    chosen = [stream for stream in (video, audio) if stream is not None]
    for stream in container.streams:
        if stream not in chosen:
            stream.discard = Discard.all
    origin = _start_of(container, chosen)
    end = _declared_end(container, chosen)
    info = MediaInfo(
        container=container.format.name,
        size_bytes=status.st_size,
        modified_ns=status.st_mtime_ns,
        duration_seconds=None if end is None else max(0.0, end - origin),
        has_audio=audio is not None,
        has_video=video is not None,
        **_video_facts(video),
        **_audio_facts(audio),
    )
    return Media(container=container, video=video, audio=audio, origin_seconds=origin, info=info)


def _best_stream(container: InputContainer, kind: Any) -> Any:
    """FFmpeg's best stream of the kind; where that is cover art or has no decoder, the best of the others."""

    def is_usable(stream: Any) -> bool:
        return stream.codec_context is not None and not stream.disposition & stream.disposition.attached_pic

    best = container.streams.best(kind)
    if best is None or is_usable(best):
        return best
    others = [stream for stream in container.streams if stream.type == kind and is_usable(stream)]
    # As in av_find_best_stream: the default stream first, then the higher bit rate, then the earlier stream.
    return max(
        others,
        key=lambda stream: (bool(stream.disposition & stream.disposition.default), stream.bit_rate or 0),
        default=None,
    )


def _start_of(container: InputContainer, streams: list[Any]) -> float:
    starts = [
        float(stream.start_time * stream.time_base) for stream in streams if stream.start_time is not None
    ]
    start = min(starts, default=0.0)
    # What lies before 0 in an MP4 is what its edit list cuts away.
    return max(0.0, start) if "mp4" in container.format.name else start


def _declared_end(container: InputContainer, streams: list[Any]) -> float | None:
    ends = [
        float(((stream.start_time or 0) + stream.duration) * stream.time_base)
        for stream in streams
        if stream.duration is not None
    ]
    if len(ends) < len(streams) and container.duration is not None:
        ends.append(((container.start_time or 0) + container.duration) / av.time_base)
    return max(ends, default=None)


def _video_facts(stream: Any) -> dict[str, Any]:
    if stream is None:
        return {}
    context = stream.codec_context
    rate = stream.average_rate
    return {
        "video_codec": context.codec.canonical_name,
        "width": context.width,
        "height": context.height,
        "frame_rate": float(rate) if rate else None,
    }


def _audio_facts(stream: Any) -> dict[str, Any]:
    if stream is None:
        return {}
    context = stream.codec_context
    return {
        "audio_codec": context.codec.canonical_name,
        "num_channels": context.layout.nb_channels,
        "sample_rate_hz": context.sample_rate,
    }
