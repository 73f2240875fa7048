"""Any media file → segments of frames and mono sound as a `ClipSpec` has them: what the encoders read.

    for clip in decode_segments("holiday.mp4", ClipSpec()).clips:
        print(clip.start_seconds, clip.frames.shape)   # (16, 224, 224, 3)

Needs the standard library, NumPy, PyAV and Pillow; no torch.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.media.limits import DecodeLimits
from models.media.opening import MediaInfo, open_media
from models.media.packets import hash_packets
from models.media.picture import PictureReader
from models.media.reading import Reading, ReadRequest, iterate_packets, read_media
from models.media.regular import (
    MediaSource,
    clamp_time_ns,
    hash_media,
    open_regular,
    open_without_links,
)
from models.media.said import Said, join, read_sidecar
from models.media.sampling import (
    MAX_THUMBNAIL_BYTES,
    PreviewPart,
    count_buckets,
    encode_jpeg,
    measure_peaks,
)
from models.media.stillness import all_known, is_silence, is_still
from models.media.timeline import ClipSpec, MomentPlan, segment_bounds
from models.media.unreadable import (
    BrokenMedia,
    ClipTooLong,
    EmptyFile,
    Encrypted,
    NoStream,
    NotARegularFile,
    NotInMedia,
    NotMedia,
    TooComplex,
    UnreadableClip,
)

__all__ = [
    "BrokenMedia",
    "Clip",
    "ClipSpec",
    "ClipTooLong",
    "DecodeLimits",
    "DecodedMedia",
    "EmptyFile",
    "Encrypted",
    "MediaInfo",
    "MediaSource",
    "NoStream",
    "NotARegularFile",
    "NotInMedia",
    "NotMedia",
    "PreviewPart",
    "TooComplex",
    "UnreadableClip",
    "clamp_time_ns",
    "decode_clip",
    "decode_segments",
    "hash_media",
    "open_regular",
    "open_without_links",
    "probe_media",
    "segment_bounds",
]

MIN_SOUND_SECONDS = 0.025
"""Less sound, one analysis frame, is no sound."""
MAX_PROBE_PACKETS = 200
"""How many packets may pass before the first picture where only the facts are asked for."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One segment of a file: half-open [start, end) on the asset's timeline, whose 0 is its first frame or sample.

    Attributes:
        start_seconds: Start of the segment.
        end_seconds: End, exclusive.
        frames: The pictures at the times of the `ClipSpec`; uint8, shape (F, H, W, 3); None without a picture.
        frame_times_seconds: When each frame came on screen, float64, shape (F,); a held frame repeats.
        samples: Mono sound of the whole segment, zero where there is none, float32, shape (S,); None under 25 ms of it.
        num_heard: Samples until the sound ends, which may be before the picture; those after it are zero. 0 without
            sound; what is more than there are means all of them.
        is_silent: Whether the sound is silence; None without sound, or if nobody judged it.
        is_static: Whether nothing changes in the picture; None likewise.
    """

    start_seconds: float
    end_seconds: float
    frames: NDArray[np.uint8] | None
    frame_times_seconds: NDArray[np.float64] | None
    samples: NDArray[np.float32] | None
    num_heard: int = sys.maxsize
    is_silent: bool | None = None
    is_static: bool | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.start_seconds < self.end_seconds:
            bounds = f"[{self.start_seconds}, {self.end_seconds})"
            raise ValueError(f"a clip must have 0 <= start < end, got {bounds}")
        if (self.frames is None) != (self.frame_times_seconds is None):
            raise ValueError("frames and frame_times_seconds go together")
        if self.frames is not None and (self.frames.ndim != 4 or self.frames.shape[3] != 3):
            raise ValueError(f"frames must be (F, H, W, 3), got {self.frames.shape}")
        if self.samples is not None and self.samples.ndim != 1:
            raise ValueError(f"samples must be (S,), got {self.samples.shape}")
        num_samples = 0 if self.samples is None else len(self.samples)
        object.__setattr__(self, "num_heard", min(self.num_heard, num_samples))


@dataclass(frozen=True, kw_only=True)
class DecodedMedia:
    """The result of decoding a file or a part of it.

    Attributes:
        info: Facts about the file.
        clips: The segments in order; one in which nothing decodes is left out.
        is_last: Whether the file has no segment after the asked ones.
        is_partial: Whether less than 95 % of the length that the header declares could be decoded.
        preview: Small pictures and peaks, if they were asked for.
    """

    info: MediaInfo
    clips: tuple[Clip, ...]
    is_last: bool
    is_partial: bool
    preview: PreviewPart | None = None


def probe_media(source: MediaSource, limits: DecodeLimits | None = None) -> MediaInfo:
    """Read the facts of a media file from its header and its first picture, without decoding the rest.

    Args:
        source: A regular file.
        limits: What the file may ask for.

    Returns:
        The facts; the duration is the declared one.
    """
    limits = limits or DecodeLimits()
    with open_media(source, limits) as media:
        if media.video is None:
            return media.info
        picture = PictureReader(
            media.video,
            origin_seconds=media.origin_seconds,
            plan=MomentPlan(spec=ClipSpec(num_moments=1, frame_size=1), stop=1),
            limits=limits,
            can_skip=False,
        )
        for packet in islice(iterate_packets(media, [media.video]), MAX_PROBE_PACKETS):
            picture.feed(packet)
            if picture.start_seconds < math.inf:
                break
        picture.finish()
        return _describe(media.info, picture, None)


def read_said(source: MediaSource, limits: DecodeLimits | None = None, *, sidecar: bytes = b"") -> Said:
    """What a file says of itself, and first the XMP file beside it; only the header is read."""
    with open_media(source, limits or DecodeLimits()) as media:
        return join(read_sidecar(sidecar), media.info.said)


def decode_clip(source: MediaSource, spec: ClipSpec, *, segment_index: int = 0) -> Clip:
    """Decode one segment of a media file.

    Args:
        source: A regular file; a link is refused.
        spec: What the clip looks like.
        segment_index: Which segment, from 0.

    Returns:
        The segment.

    Raises:
        BrokenMedia: If the file has no such segment, or nothing in it decodes.
    """
    decoded = decode_segments(source, spec, first=segment_index, count=1)
    if not decoded.clips:
        raise BrokenMedia(f"the file has no segment {segment_index}, or nothing in it decodes")
    return decoded.clips[0]


def decode_segments(
    source: MediaSource,
    spec: ClipSpec,
    *,
    first: int = 0,
    count: int | None = None,
    limits: DecodeLimits | None = None,
    modalities: Collection[Literal["audio", "video"]] = ("audio", "video"),
    hashes_packets: bool = False,
    with_preview: bool = False,
    preview_at: float | None = None,
    sidecar: bytes = b"",
) -> DecodedMedia:
    """Decode a media file, or a stretch of its segments, in one pass.

    A long file is taken in chunks: `first` 0, 60, 120 ... with `count` 60 until `is_last`. Chunks give the same frames
    as one pass over the file, and the same samples to 1e-3 where the container keeps time to the sample; containers
    that round to 1 ms (WebM, FLV) may shift them by one sample. What a decoder makes up (noise substitution in AAC)
    differs from run to run.

    Args:
        source: A regular file; a link is refused, so resolve it first where links are wanted.
        spec: What a clip looks like.
        first: First segment, from 0. After the end of the file there are no clips.
        count: How many segments; None for all to the end.
        limits: What the file may ask for.
        modalities: What to decode; the other is None in every clip.
        hashes_packets: Whether to read all packets for `MediaInfo.packets_hash`; from the first segment on only.
        with_preview: Whether to take small pictures and peaks of the sound too.
        preview_at: Take one picture only, the first that was picked from this time on, in seconds.
        sidecar: The XMP file that lies beside it, for `MediaInfo.said`.

    Returns:
        The segments and the facts of the file.

    Raises:
        ValueError: If `first` or `count` is out of range.
        BrokenMedia: If the file opens, but nothing in it decodes.
    """
    if first < 0 or (count is not None and count < 1):
        raise ValueError(f"first must be at least 0 and count at least 1, got {first} and {count}")
    request = ReadRequest(
        source=source,
        spec=spec,
        limits=limits or DecodeLimits(),
        first=first,
        stop=None if count is None else first + count,
        modalities=frozenset(modalities),
        with_preview=with_preview,
        at_seconds=preview_at,
    )
    reading = read_media(request)
    bounds = list(enumerate(reading.bounds()))[first:]
    clips = [_build_clip(request, reading, segment, start, end) for segment, (start, end) in bounds]
    decoded = tuple(clip for clip in clips if clip is not None)
    if not decoded and first == 0 and reading.is_last:
        raise BrokenMedia(_explain_nothing(reading.info, request.limits))
    info = replace(
        reading.info,
        is_out_of_phase=reading.sound is not None and reading.sound.is_out_of_phase,
        is_silent=all_known(clip.is_silent for clip in decoded),
        is_static=all_known(clip.is_static for clip in decoded),
        said=join(read_sidecar(sidecar), reading.info.said),
    )
    info = _describe(info, reading.picture, reading.end_seconds if reading.is_whole else None)
    if hashes_packets and first == 0:
        info = replace(info, packets_hash=hash_packets(source, info, limits))
    return DecodedMedia(
        info=info,
        clips=decoded,
        is_last=reading.is_last,
        is_partial=reading.is_partial,
        preview=_preview(reading, decoded) if with_preview else None,
    )


def _preview(reading: Reading, clips: Sequence[Clip]) -> PreviewPart:
    spec, num_buckets = reading.plan.spec, count_buckets(reading.plan)
    sampler = None if reading.picture is None else reading.picture.sampler
    thumbnail = None if sampler is None else sampler.thumbnail
    return PreviewPart(
        tiles=() if sampler is None else tuple(sampler.tiles),
        thumbnail=None if thumbnail is None else encode_jpeg(thumbnail, MAX_THUMBNAIL_BYTES),
        bucket_seconds=spec.segment_seconds / num_buckets,
        peaks=[
            (clip.start_seconds, measure_peaks(clip.samples, spec.segment_samples, num_buckets))
            for clip in clips
            if clip.samples is not None
        ],
    )


def _build_clip(
    request: ReadRequest, reading: Reading, segment: int, start: float, end: float
) -> Clip | None:
    """Put a segment together. If the header gave a wrong end, or packets wrong times, read its frames again."""
    picture = reading.picture
    if picture is not None and not picture.has_right_frames(segment, start, end):
        again = replace(
            request,
            first=segment,
            stop=segment + 1,
            end_seconds=reading.end_seconds,
            frame_starts=picture.frame_starts(),
            with_preview=False,
        )
        picture = read_media(again).picture
    frames = frame_times = samples = is_silent = None
    num_heard = 0
    if picture is not None and (picked := picture.frames(segment)) is not None:
        frames, frame_times = picked
    if reading.sound is not None:
        heard, num_decoded = _hear(request, reading, segment)
        if num_decoded >= MIN_SOUND_SECONDS * request.spec.sample_rate_hz:
            is_silent = is_silence(heard)
            samples = np.zeros(round((end - start) * request.spec.sample_rate_hz), np.float32)
            samples[: len(heard)] = heard[: len(samples)]
            num_heard = len(heard)
    if frames is None and samples is None:
        return None
    return Clip(
        start_seconds=start,
        end_seconds=end,
        frames=frames,
        frame_times_seconds=frame_times,
        samples=samples,
        num_heard=num_heard,
        is_silent=is_silent,
        is_static=None if frames is None else is_still(frames),
    )


def _hear(request: ReadRequest, reading: Reading, segment: int) -> tuple[NDArray[np.float32], int]:
    """Sound of a segment; a silent track hides no loud one behind it."""
    heard = reading.sound.samples(segment) if reading.sound is not None else (np.zeros(0, np.float32), 0)
    for track in range(reading.num_behind):
        if len(heard[0]) and not is_silence(heard[0]):
            break
        again = replace(
            request, first=segment, stop=segment + 1, modalities=frozenset({"audio"}), behind=track
        )
        sound = read_media(again).sound
        if sound is not None and len((other := sound.samples(segment))[0]) and not is_silence(other[0]):
            heard = other
    return heard


def _explain_nothing(info: MediaInfo, limits: DecodeLimits) -> str:
    reason = "the file opens, but nothing in it decodes"
    if info.has_video and not info.width:  # FFmpeg forgets the size of what is far above its limit of pixels
        reason += f"; a picture may have at most {limits.max_frame_width} x {limits.max_frame_height} pixels"
    return reason


def _describe(info: MediaInfo, picture: PictureReader | None, end_seconds: float | None) -> MediaInfo:
    """Return the header's facts, corrected by the decoded content."""
    if picture is not None and picture.size is not None:
        width, height = picture.size
        info = replace(info, width=width, height=height, rotation_degrees=picture.rotation_degrees)
    if end_seconds is not None:
        info = replace(info, duration_seconds=max(0.0, end_seconds), is_duration_measured=True)
    return info
