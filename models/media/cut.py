"""A stretch of a media file as a file of its own.

    segment = cut_segment("holiday.mp4", 12.0, 20.0)
    Path("part" + segment.suffix).write_bytes(segment.content)

Picture is copied packet by packet from the key frame at or before the start, where MP4, or else Matroska or QuickTime
as the source has it, holds its codecs; otherwise it is encoded again, from the very frame. Sound becomes WAV.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import av
import av.error

from models.media.limits import DecodeLimits
from models.media.opening import Media, open_media
from models.media.reading import iterate_packets
from models.media.reencoding import encode_stretch
from models.media.regular import MediaSource
from models.media.stretch import Stretch, check_size, open_early, time_of
from models.media.stretch_sound import read_sound, to_24_bits
from models.media.unreadable import NoStream, NotInMedia
from models.media.wave import write_wave

MIN_SECONDS = 0.001  # shorter ones hold no sample
MAX_SECONDS = 600.0
"""Longest segment."""

MP4_PICTURE = frozenset({"h264", "hevc", "mpeg4", "av1", "vp9"})
MP4_SOUND = frozenset({"aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"})
KINDS = {  # container → suffix and media type
    "mp4": (".mp4", "video/mp4"),
    "mov": (".mov", "video/quicktime"),
    "matroska": (".mkv", "video/x-matroska"),
}
FLOAT_CODECS = ("pcm_f", "wavpack")
"""Their numbers are those of the file; those of the others come out of a lossy decoder."""

Modality = Literal["audio", "video"]


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stretch of a file.

    Attributes:
        content: The file.
        suffix: How its name ends: `.wav`, `.mp4`, `.mov` or `.mkv`.
        media_type: Such as `audio/wav`.
        start_seconds: Where it begins in the source: before the asked start where picture is copied.
        end_seconds: Where it ends in the source.
        is_copy: Whether picture and sound are those of the source, bit by bit.
    """

    content: bytes
    suffix: str
    media_type: str
    start_seconds: float
    end_seconds: float
    is_copy: bool


def is_span(start: float, end: float) -> bool:
    """Whether a segment can last from `start` to `end`, in seconds."""
    return start >= 0 and MIN_SECONDS <= round(end - start, 9) <= MAX_SECONDS


def cut_segment(
    source: MediaSource,
    start: float,
    end: float,
    *,
    modality: Modality | None = None,
    moment: float | None = None,
    exact: bool = False,
    limits: DecodeLimits | None = None,
) -> Segment:
    """Cut a stretch out of a file.

    Args:
        source: A regular file.
        start: Start on the asset's timeline, in seconds.
        end: End, exclusive; past the end of the file it is the end of the file.
        modality: `audio` for the sound alone; `video` for the picture with its sound. None: what the file has.
        moment: A time that a marker of the sound names, in seconds.
        exact: Whether to encode the picture again, so that it begins at the start and not at a key frame.
        limits: What the file may ask for.

    Returns:
        The segment.

    Raises:
        NoStream: If the file lacks the modality.
        NotInMedia: If start and end are in no order, too far apart, or after the end of the file.
    """
    if not is_span(start, end):
        raise NotInMedia(
            f"a segment lasts from {MIN_SECONDS:g} to {MAX_SECONDS:g} s, got {start:g} to {end:g}"
        )
    limits = limits or DecodeLimits()
    with open_media(source, limits) as media:
        has = {"audio": bool(media.sounds), "video": media.video is not None}
        info = media.info
        if media.shown and info.duration_seconds is not None:  # what is stored after it is not shown
            end = min(end, info.duration_seconds)
    modality = modality or ("video" if has["video"] else "audio")
    if not has[modality]:
        raise NoStream(f"the file has no {'picture' if modality == 'video' else 'sound'}")
    if not is_span(start, end) or (info.duration_seconds is not None and start >= info.duration_seconds):
        raise NotInMedia(f"the file ends at {info.duration_seconds or end:g} s")
    stretch = Stretch(source=source, limits=limits, start=start, end=end)
    if modality == "audio":
        samples, rate = read_sound(stretch)
        if samples.dtype.kind == "f" and not str(info.audio_codec).startswith(FLOAT_CODECS):
            samples = to_24_bits(samples)
        first = round(start * rate)
        place = None if moment is None else round(moment * rate) - first
        content = write_wave(
            samples,
            rate,
            time_reference=(info.time_reference_samples or 0) + first,
            cues={place: "best moment"} if place is not None and 0 <= place < len(samples) else None,
        )
        return Segment(
            content=content,
            suffix=".wav",
            media_type="audio/wav",
            start_seconds=start,
            end_seconds=start + len(samples) / rate,
            is_copy=False,
        )
    copied = None if exact else _copy(stretch)
    if copied is not None:
        return copied
    content, stop = encode_stretch(stretch, has_sound=has["audio"])
    return _picture_segment(content, "mp4", start, stop, is_copy=False)


def _copy(stretch: Stretch) -> Segment | None:
    """The packets as they are; None where they cannot stand alone."""
    for media, _ in open_early(stretch, is_picture=True):
        container = _choose_container(media)
        if container is None or any(len(spans) > 1 for spans in media.shown.values()):
            return None
        found = _gather(media, stretch)
        if found is None:
            return None
        if found:
            with suppress(av.error.FFmpegError, ValueError):
                return _mux(media, found, container)
            return None
    return None


def _choose_container(media: Media) -> str | None:
    picture = media.video.codec_context.codec.canonical_name
    sounds = {stream.codec_context.codec.canonical_name for stream in media.sounds}
    if picture in MP4_PICTURE and sounds <= MP4_SOUND:
        return "mp4"
    return next((name for name in ("matroska", "mov") if name in media.info.container.split(",")), None)


def _gather(media: Media, stretch: Stretch) -> list[Any] | None:
    """The packets from the last key frame at or before the start to the end: none if that lies before them.

    None if they tell no times, or if what comes before the file's own start is needed.
    """
    found = _Packets(media, stretch)
    for packet in iterate_packets(media, [media.video, *media.sounds]):
        if packet.pts is None:
            return None
        if not found.take(packet):
            break
    if found.key is None:
        return []
    if found.key < -1e-3:
        return None
    _fill_order(found.pictures)
    _fill_order(found.sounds)
    return [*found.pictures, *found.sounds]


def _fill_order(packets: Sequence[Any]) -> None:
    """Say when packets are decoded, where the container does not: as late as each can still be shown in time."""
    if any(packet.dts is None for packet in packets):
        shown = sorted(packet.pts for packet in packets)
        delay = max(late - packet.pts for late, packet in zip(shown, packets, strict=True))
        for late, packet in zip(shown, packets, strict=True):
            packet.dts = late - delay


class _Packets:
    """The packets of a stretch: pictures from the last key frame at or before it, and the sound that goes with them."""

    def __init__(self, media: Media, stretch: Stretch) -> None:
        self.pictures: list[Any] = []
        self.sounds: list[Any] = []
        self.key: float | None = None
        self._waiting: list[Any] = []  # past the end, unless one that is shown before it comes behind them
        self._running = {media.video.index, *(stream.index for stream in media.sounds)}
        self._num_bytes = 0
        self._media, self._stretch = media, stretch

    def take(self, packet: Any) -> bool:
        """Take the next packet; returns whether more are needed."""
        time = time_of(self._media, packet, packet.pts)
        if packet.dts is not None and time_of(self._media, packet, packet.dts) >= self._stretch.end:
            self._running.discard(packet.stream.index)
            return bool(self._running)
        if packet.stream.index == self._media.video.index:
            self._take_picture(packet, time)
        elif time < self._stretch.end and (self.key is None or time >= self.key - 1e-6):
            self.sounds.append(packet)
        self._num_bytes += packet.size if self.key is not None else 0
        check_size(self._num_bytes)
        return True

    def _take_picture(self, packet: Any, time: float) -> None:
        if packet.is_keyframe and time <= self._stretch.start + 1e-6:
            self.pictures, self._waiting, self.key, self._num_bytes = [packet], [], time, 0
            self.sounds = [one for one in self.sounds if time_of(self._media, one, one.pts) >= time - 1e-6]
        elif (
            self.key is not None and time >= self.key
        ):  # pictures before an open key frame need the one before
            self._waiting.append(packet)
            if time < self._stretch.end:
                self.pictures += self._waiting
                self._waiting = []


def _mux(media: Media, packets: Sequence[Any], container: str) -> Segment:
    start, end = time_of(media, packets[0], packets[0].pts), 0.0
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        streams = {
            stream.index: output.add_stream_from_template(stream, opaque=True)
            for stream in (media.video, *media.sounds)
        }
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            if not packet.duration and packet.stream.index == media.video.index and media.info.frame_rate:
                packet.duration = round(
                    1 / media.info.frame_rate / packet.time_base
                )  # MPEG streams tell none
            end = max(end, time_of(media, packet, packet.pts + (packet.duration or 0)))
            shift = round((start + media.origin_seconds) / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = streams[packet.stream.index]
            output.mux(packet)
    return _picture_segment(buffer.getvalue(), container, start, end, is_copy=True)


def _picture_segment(content: bytes, container: str, start: float, end: float, *, is_copy: bool) -> Segment:
    suffix, media_type = KINDS[container]
    return Segment(
        content=content,
        suffix=suffix,
        media_type=media_type,
        start_seconds=max(0.0, start),
        end_seconds=end,
        is_copy=is_copy,
    )
