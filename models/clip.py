"""Any media file → segments of 16 frames and mono 16 kHz sound: what the encoders read.

    for clip in decode_segments(Path("holiday.mp4"), ClipSpec()).clips:
        print(clip.start_seconds, clip.frames.shape)   # (16, 224, 224, 3)

Needs the standard library, NumPy, PyAV and Pillow; no torch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import av.error
import numpy as np
from numpy.typing import NDArray

from models.media import (
    BrokenMedia,
    ClipTooLong,
    DecodeLimits,
    EmptyFile,
    Media,
    MediaInfo,
    NoStream,
    NotARegularFile,
    NotMedia,
    TooComplex,
    UnreadableClip,
    hash_media,
    open_media,
)
from models.streams import (
    ExtentReader,
    LandedLate,
    MomentPlan,
    PictureReader,
    SkippingInexact,
    SoundReader,
    crop_square,
)

__all__ = [
    "BrokenMedia",
    "Clip",
    "ClipSpec",
    "ClipTooLong",
    "DecodeLimits",
    "DecodedMedia",
    "EmptyFile",
    "MediaInfo",
    "NoStream",
    "NotARegularFile",
    "NotMedia",
    "TooComplex",
    "UnreadableClip",
    "crop_square",
    "decode_clip",
    "decode_segments",
    "hash_media",
    "probe_media",
    "segment_bounds",
]

MIN_SAMPLES = 400
"""Sound shorter than one 25 ms analysis frame is no sound."""
SEEK_MARGINS_SECONDS = (1.0, 8.0, 60.0)
"""How far before a chunk to start reading; the next one is tried where a seek comes down too late."""
WARM_UP_SECONDS = 0.5
"""Sound that is decoded and dropped after a seek, until decoder and resampler do not remember where they started."""
COUNTED_CONTAINERS = frozenset({"mp3", "aac", "ac3", "eac3", "amr", "amrnb", "amrwb"})
"""Containers without timestamps: a seek guesses the time by the file position, so packets are counted instead."""
PARTIAL_SHARE = 0.95
"""A file of which less than this share of the declared length could be read is partial."""
MAX_PROBE_PACKETS = 200
"""How many packets may pass before the first picture when only the facts are asked for."""


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """What a clip looks like to the encoders."""

    num_moments: int = 16
    """Frames of a segment."""
    frame_size: int = 224
    """Side of the square frames, in pixels."""
    sample_rate_hz: int = 16000
    """Rate of the mono sound."""
    segment_seconds: float = 10.0
    """Length of a full segment; a whole number of samples."""
    min_segment_seconds: float = 1.0
    """A shorter rest at the end of a file is dropped, unless it is all there is."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if not (self.segment_seconds * self.sample_rate_hz).is_integer():
            raise ValueError(f"a segment must be a whole number of samples, got {self.segment_seconds} s")


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One segment of a file: half-open [start, end) on the asset's timeline, where 0 is its first frame or sample.

    Attributes:
        start_seconds: Start of the segment.
        end_seconds: End, exclusive.
        frames: Frame i is on screen at i/T of the segment; uint8, shape (T, H, W, 3); None where there is no picture.
        frame_times_seconds: When each frame came on screen, float64, shape (T,); a held frame repeats.
        samples: Mono sound from the start to where the sound ends, float32, shape (S,); None under 25 ms of sound.
    """

    start_seconds: float
    end_seconds: float
    frames: NDArray[np.uint8] | None
    frame_times_seconds: NDArray[np.float64] | None
    samples: NDArray[np.float32] | None

    def __post_init__(self) -> None:
        if not 0 <= self.start_seconds < self.end_seconds:
            raise ValueError(
                f"a clip must have 0 <= start < end, got [{self.start_seconds}, {self.end_seconds})"
            )
        if (self.frames is None) != (self.frame_times_seconds is None):
            raise ValueError("frames and frame_times_seconds go together")
        if self.frames is not None and (self.frames.ndim != 4 or self.frames.shape[3] != 3):
            raise ValueError(f"frames must be (T, H, W, 3), got {self.frames.shape}")
        if self.samples is not None and self.samples.ndim != 1:
            raise ValueError(f"samples must be (S,), got {self.samples.shape}")


@dataclass(frozen=True, kw_only=True)
class DecodedMedia:
    """What a file, or a stretch of it, decoded to.

    Attributes:
        info: Facts about the file.
        clips: The segments in order; one in which nothing decodes is left out.
        is_last: Whether the file has no segment after the asked ones.
        is_partial: Whether the file ended before 95 % of the length its header declares.
    """

    info: MediaInfo
    clips: tuple[Clip, ...]
    is_last: bool
    is_partial: bool


def segment_bounds(duration_seconds: float, spec: ClipSpec) -> list[tuple[float, float]]:
    """Cut a duration into segments: 25.5 s → [0, 10), [10, 20), [20, 25.5); 20.5 s → [0, 10), [10, 20).

    Args:
        duration_seconds: Length of the file.
        spec: Length of full segments and of the shortest last one.

    Returns:
        Start and end of each segment, in seconds; empty for a file without length.
    """
    if duration_seconds <= 0:
        return []
    num_full = math.floor(duration_seconds / spec.segment_seconds)
    bounds = [(k * spec.segment_seconds, (k + 1) * spec.segment_seconds) for k in range(num_full)]
    start = num_full * spec.segment_seconds
    if not bounds or duration_seconds - start >= spec.min_segment_seconds:
        bounds.append((start, duration_seconds))
    return bounds


def probe_media(path: Path | str) -> MediaInfo:
    """Read the facts of a media file from its header and its first picture, without decoding the rest.

    Args:
        path: A regular file.

    Returns:
        The facts; the duration is the declared one.
    """
    with open_media(path) as media:
        plan = MomentPlan(num_moments=1, segment_seconds=1.0, first=0, stop=1, duration_seconds=None)
        picture = _picture_reader(
            media, plan, frame_size=1, limits=DecodeLimits(), can_skip=False, has_seeked=False
        )
        if picture is None:
            return media.info
        for packet in itertools.islice(_packets(media, [media.video]), MAX_PROBE_PACKETS):
            picture.feed(packet)
            if picture.is_started:
                break
        picture.finish()
        return _describe(media.info, picture, None)


def decode_clip(path: Path | str, spec: ClipSpec, *, segment_index: int = 0) -> Clip:
    """Decode one segment of a media file.

    Args:
        path: A regular file.
        spec: What the clip looks like.
        segment_index: Which segment, from 0.

    Returns:
        The segment.

    Raises:
        BrokenMedia: If the file has no such segment.
    """
    decoded = decode_segments(path, spec, first=segment_index, count=1)
    if not decoded.clips:
        raise BrokenMedia(f"nothing decodes in segment {segment_index}")
    return decoded.clips[0]


def decode_segments(
    path: Path | str,
    spec: ClipSpec,
    *,
    first: int = 0,
    count: int | None = None,
    limits: DecodeLimits | None = None,
    modalities: Collection[Literal["audio", "video"]] = ("audio", "video"),
) -> DecodedMedia:
    """Decode a media file, or a stretch of its segments, in one pass.

    A long file is taken in chunks: `first` 0, 60, 120 ... with `count` 60 until `is_last`. Chunks give the same frames
    as one pass, and the same samples to within 1e-3 where the container keeps time to the sample (MP4, FLAC, WAV, MP3);
    elsewhere they may shift by the container's rounding, up to 1 ms (WebM, FLV).

    Args:
        path: A regular file.
        spec: What a clip looks like.
        first: First segment, from 0.
        count: How many segments; None for all to the end.
        limits: What the file may ask for.
        modalities: What to decode; the other is None in every clip.

    Returns:
        The segments and the facts of the file.

    Raises:
        NoStream: If the file has none of the asked modalities.
        ClipTooLong: If the file is longer than the limit.
        BrokenMedia: If nothing in the file decodes.
    """
    limits = limits or DecodeLimits()
    if first < 0 or (count is not None and count <= 0):
        raise ValueError(f"first must be at least 0 and count positive, got {first} and {count}")
    request = _Request(spec=spec, limits=limits, first=first, count=count, modalities=frozenset(modalities))
    return _decode_exactly(path, request)


@dataclass(frozen=True, kw_only=True)
class _Request:
    """One reading of a file: which segments, and what is known about it already."""

    spec: ClipSpec
    limits: DecodeLimits
    first: int
    count: int | None
    modalities: frozenset[str]
    end_seconds: float | None = None
    can_skip: bool = True
    margin_seconds: float | None = None

    @property
    def stop(self) -> int | None:
        return None if self.count is None else self.first + self.count


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """What one reading of a file brought: the readers hold it, segment by segment."""

    info: MediaInfo
    plan: MomentPlan
    picture: PictureReader | None
    sound: SoundReader | None
    end_seconds: float
    has_reached_end: bool


def _decode_exactly(path: Path | str, request: _Request) -> DecodedMedia:
    """Read, then read again the segment whose end the header told wrong: its frames lie elsewhere."""
    reading = _read(path, request)
    spec = request.spec
    if reading.has_reached_end:
        bounds = segment_bounds(reading.end_seconds, spec)
    else:
        assert request.stop is not None
        bounds = segment_bounds(request.stop * spec.segment_seconds, spec)
    clips = []
    for segment, (start, end) in list(enumerate(bounds))[request.first : request.stop]:
        exact = reading
        if not _has_right_frames(reading, segment, start, end):
            again = replace(request, first=segment, count=1, end_seconds=reading.end_seconds)
            exact = _read(path, again)
        clip = _build_clip(spec, segment, start, end, exact.picture, reading.sound)
        if clip is not None:
            clips.append(clip)
    if not clips and request.first == 0:
        raise BrokenMedia("the file opens, but nothing in it decodes")
    declared = reading.info.duration_seconds
    return DecodedMedia(
        info=_describe(
            reading.info, reading.picture, reading.end_seconds if reading.has_reached_end else None
        ),
        clips=tuple(clips),
        is_last=reading.has_reached_end and (request.stop is None or len(bounds) <= request.stop),
        is_partial=bool(
            reading.has_reached_end and declared and reading.end_seconds < PARTIAL_SHARE * declared
        ),
    )


def _read(path: Path | str, request: _Request) -> _Reading:
    """Read with every shortcut, and with fewer where a shortcut turns out not to be exact."""
    margins = [None] if request.first == 0 else [*SEEK_MARGINS_SECONDS, None]
    for can_skip in (True, False):
        for margin in margins:
            try:
                return _read_once(path, replace(request, can_skip=can_skip, margin_seconds=margin))
            except LandedLate:
                continue
            except SkippingInexact:
                break
    raise AssertionError("reading every frame from the start needs no other way")


def _read_once(path: Path | str, request: _Request) -> _Reading:
    limits, spec = request.limits, request.spec
    with open_media(path, limits) as media:
        _check_request(media, request)
        has_seeked = _seek(media, request)
        plan = MomentPlan(
            num_moments=spec.num_moments,
            segment_seconds=spec.segment_seconds,
            first=request.first,
            stop=request.stop,
            duration_seconds=request.end_seconds or media.info.duration_seconds,
        )
        picture = sound = None
        if "video" in request.modalities:
            picture = _picture_reader(
                media,
                plan,
                frame_size=spec.frame_size,
                limits=limits,
                can_skip=request.can_skip,
                has_seeked=has_seeked,
            )
        if "audio" in request.modalities and media.audio is not None:
            sound = SoundReader(
                media.audio,
                origin_seconds=media.origin_seconds,
                sample_rate_hz=spec.sample_rate_hz,
                segment_samples=round(spec.segment_seconds * spec.sample_rate_hz),
                first=request.first,
                stop=request.stop,
                limits=limits,
            )
        readers = {
            stream.index: reader or ExtentReader(stream, origin_seconds=media.origin_seconds)
            for stream, reader in ((media.video, picture), (media.audio, sound))
            if stream is not None
        }
        has_reached_end = _feed(media, readers, plan, spec, limits)
        for reader in readers.values():
            reader.finish()
        if has_seeked and sound is not None:
            _check_landing(media, sound, plan)
        end_seconds = max(reader.end_seconds for reader in readers.values())
        return _Reading(
            info=media.info,
            plan=plan,
            picture=picture,
            sound=sound,
            end_seconds=end_seconds,
            has_reached_end=has_reached_end,
        )


def _check_request(media: Media, request: _Request) -> None:
    held = {"audio": media.audio, "video": media.video}
    if all(held[modality] is None for modality in request.modalities):
        raise NoStream(f"the file has no {' and no '.join(sorted(request.modalities))}")
    declared, limit = media.info.duration_seconds, request.limits.max_duration_seconds
    if declared is not None and declared > limit:
        raise ClipTooLong(f"a file may last {limit:g} s, its header says {declared:.1f} s")


def _seek(media: Media, request: _Request) -> bool:
    """Go to before the first segment. False where reading has to start at the beginning of the file."""
    if request.margin_seconds is None or media.info.container in COUNTED_CONTAINERS:
        return False
    stream = media.video or media.audio
    seconds = request.first * request.spec.segment_seconds - request.margin_seconds
    if seconds <= 0:
        return False
    try:
        offset = math.floor((seconds + media.origin_seconds) / stream.time_base)
        media.container.seek(offset, stream=stream, backward=True)
    except (av.error.FFmpegError, OverflowError):
        raise LandedLate("the container cannot seek") from None
    return True


def _feed(
    media: Media, readers: dict[int, Any], plan: MomentPlan, spec: ClipSpec, limits: DecodeLimits
) -> bool:
    """Give each reader its packets until the wanted segments are complete. True if that took the whole file."""
    enough = plan.stop_seconds + spec.min_segment_seconds
    streams = [stream for stream in (media.video, media.audio) if stream is not None]
    for packet in _packets(media, streams):
        readers[packet.stream_index].feed(packet)
        end = max(reader.end_seconds for reader in readers.values())
        if end > limits.max_duration_seconds:
            raise ClipTooLong(
                f"a file may last {limits.max_duration_seconds:g} s, this one reaches {end:.1f} s"
            )
        if end >= enough and all(reader.progress_seconds >= plan.stop_seconds for reader in readers.values()):
            return False
    return True


def _packets(media: Media, streams: list[Any]) -> Iterator[Any]:
    """Packets in file order, up to the end or to where the file cannot be read on."""
    packets = media.container.demux(streams)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:
            return
        if packet is None:
            return
        if packet.size:
            yield packet


def _check_landing(media: Media, sound: SoundReader, plan: MomentPlan) -> None:
    """The first sound after a seek must lie before what is wanted, unless the stream itself starts later."""
    stream_start = float((media.audio.start_time or 0) * media.audio.time_base) - media.origin_seconds
    latest = max(plan.start_seconds - WARM_UP_SECONDS, stream_start + WARM_UP_SECONDS)
    if sound.start_seconds > latest:
        raise LandedLate(f"first sound at {sound.start_seconds} s, needed {latest} s")


def _picture_reader(
    media: Media, plan: MomentPlan, *, frame_size: int, limits: DecodeLimits, can_skip: bool, has_seeked: bool
) -> PictureReader | None:
    if media.video is None:
        return None
    return PictureReader(
        media.video,
        origin_seconds=media.origin_seconds,
        plan=plan,
        frame_size=frame_size,
        limits=limits,
        can_skip=can_skip,
        has_seeked=has_seeked,
    )


def _has_right_frames(reading: _Reading, segment: int, start: float, end: float) -> bool:
    """Whether the frames that were picked are those on screen at i/T of the segment as it really is."""
    picture = reading.picture
    if picture is None or reading.plan.bounds(segment) == (start, end):
        return True
    picked = picture.frames(segment)
    if picked is None:
        return True
    num_moments = reading.plan.num_moments
    wanted = [start + (end - start) * i / num_moments for i in range(num_moments)]
    return np.array_equal(picked[1], picture.expected_times(wanted))


def _build_clip(
    spec: ClipSpec,
    segment: int,
    start: float,
    end: float,
    picture: PictureReader | None,
    sound: SoundReader | None,
) -> Clip | None:
    frames = frame_times = samples = None
    picked = picture.frames(segment) if picture is not None else None
    if picked is not None:
        frames, frame_times = picked
    if sound is not None:
        heard, num_decoded = sound.samples(segment)
        if num_decoded >= MIN_SAMPLES:
            samples = heard[: round((end - start) * spec.sample_rate_hz)]
    if frames is None and samples is None:
        return None
    return Clip(
        start_seconds=start, end_seconds=end, frames=frames, frame_times_seconds=frame_times, samples=samples
    )


def _describe(info: MediaInfo, picture: PictureReader | None, end_seconds: float | None) -> MediaInfo:
    """The header's facts, corrected by what was decoded."""
    if picture is not None and picture.size is not None:
        width, height = picture.size
        info = replace(info, width=width, height=height, rotation_degrees=picture.rotation_degrees)
    if end_seconds is not None:
        info = replace(info, duration_seconds=max(0.0, end_seconds), is_duration_measured=True)
    return info
