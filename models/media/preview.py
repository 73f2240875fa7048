"""What a file looks and sounds like at a glance: a thumbnail, a filmstrip, a waveform.

    preview = read_preview("holiday.mp4")
    preview.thumbnail                       # a JPEG
    draw_waveform(preview.peaks, preview.bucket_seconds, start=0.0, end=8.0, pixels=800)

At most 40 KB a file. Indexing makes one of the parts that come with its segments (`join_parts`); a file that was
indexed before is read again here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.media.clip import ClipSpec, DecodedMedia, DecodeLimits, MediaSource, decode_segments, probe_media
from models.media.frame import Pixels
from models.media.sampling import (
    MAX_BUCKETS,
    MAX_STRIP_BYTES,
    NUM_TILES,
    THUMBNAIL_SHARE,
    Peaks,
    PreviewPart,
    encode_jpeg,
    to_int8,
)
from models.media.unreadable import BrokenMedia, NoStream

Modality = Literal["audio", "video"]
AUDIO: Modality = "audio"
VIDEO: Modality = "video"
SHORT_SECONDS = 120.0  # a longer file is not decoded whole for its pictures
CHUNK_SEGMENTS = 24  # 240 s of sound are 15 MB
STEPS_BACK = (0.0, 0.5, 2.0, 10.0, 60.0, math.inf)  # the sound may be longer than the picture
STEP_SECONDS = 0.1  # pictures are picked on this grid
SEGMENT_SPEC = ClipSpec(frame_size=8)
MOMENT_SPEC = ClipSpec(
    num_moments=1, frame_size=8, segment_seconds=STEP_SECONDS, min_segment_seconds=STEP_SECONDS / 10
)


@dataclass(frozen=True, kw_only=True)
class Preview:
    """A file at a glance; what it lacks, or what was not made, is None.

    Attributes:
        thumbnail: A JPEG, at most 320 pixels on its longer side.
        strip: A JPEG of `num_tiles` pictures side by side, each `tile_width` pixels wide, spread over the length.
        peaks: Of the mono sound, each bucket `bucket_seconds` long.
    """

    thumbnail: bytes | None = None
    strip: bytes | None = None
    num_tiles: int = 0
    tile_width: int = 0
    peaks: Peaks | None = None
    bucket_seconds: float = 0.0


def join_parts(parts: Sequence[PreviewPart], duration_seconds: float | None) -> Preview:
    """Make a preview of the parts of a file, in their order."""
    peaks, bucket_seconds = _join_peaks(parts)
    preview = Preview(
        thumbnail=next((part.thumbnail for part in parts if part.thumbnail), None),
        peaks=peaks,
        bucket_seconds=bucket_seconds,
    )
    tiles = [tile for part in parts for tile in part.tiles]
    return _with_strip(preview, tiles, duration_seconds) if tiles else preview


def _with_strip(
    preview: Preview, tiles: Sequence[tuple[float, Pixels]], duration_seconds: float | None
) -> Preview:
    duration = duration_seconds or tiles[-1][0]
    times = np.array([seconds for seconds, _ in tiles])
    wanted = np.arange(NUM_TILES) * duration / NUM_TILES
    chosen = np.abs(times[None] - wanted[:, None]).argmin(axis=1)
    height, width = tiles[0][1].shape[:2]
    strip = np.concatenate([_fit(tiles[number][1], width, height) for number in chosen], axis=1)
    content = encode_jpeg(strip, MAX_STRIP_BYTES)
    return replace(preview, strip=content, num_tiles=NUM_TILES, tile_width=width)


def _fit(pixels: Pixels, width: int, height: int) -> Pixels:
    """Resize the picture of a file whose pictures change their shape."""
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height)))


def _join_peaks(parts: Sequence[PreviewPart]) -> tuple[Peaks | None, float]:
    pieces = [piece for part in parts for piece in part.peaks]
    if not pieces:
        return None, 0.0
    bucket = parts[0].bucket_seconds
    starts = [round(seconds / bucket) for seconds, _ in pieces]
    joined = np.zeros(
        (max(start + len(piece) for start, (_, piece) in zip(starts, pieces, strict=True)), 2), np.int8
    )
    for start, (_, piece) in zip(starts, pieces, strict=True):
        joined[start : start + len(piece)] = piece
    while len(joined) > 2 * MAX_BUCKETS:  # the header did not say how long the file is
        joined = np.concatenate([joined, joined[-1:]]) if len(joined) % 2 else joined
        joined = np.stack([joined[:, 0].reshape(-1, 2).min(1), joined[:, 1].reshape(-1, 2).max(1)], axis=1)
        bucket *= 2
    return joined, bucket


def draw_waveform(
    peaks: NDArray[np.int8], bucket_seconds: float, *, start: float, end: float, pixels: int
) -> Peaks:
    """Peaks of a stretch, one pair for each pixel; silence where there is no sound.

    Args:
        peaks: Those of the whole file, or of what begins at 0.
        bucket_seconds: Length of a bucket.
        start: Start of the stretch, in seconds.
        end: Its end, after that.
        pixels: How many pairs, at least 1.

    Returns:
        Lowest and highest of each pixel, shape (pixels, 2).
    """
    edges = (start + np.arange(pixels + 1) * ((end - start) / pixels)) / bucket_seconds
    low = np.clip(np.floor(edges[:-1] + 1e-6), 0, len(peaks)).astype(np.int64)
    high = np.clip(np.ceil(edges[1:] - 1e-6), low + 1, len(peaks) + 1).astype(np.int64)
    padded = np.concatenate([peaks, np.zeros((2, 2), np.int8)])
    pairs = np.stack([low, high], axis=1).ravel()
    return np.stack(
        [np.minimum.reduceat(padded[:, 0], pairs)[::2], np.maximum.reduceat(padded[:, 1], pairs)[::2]], axis=1
    )


# In the sandbox, on demand


def read_pictures(source: MediaSource, limits: DecodeLimits | None = None) -> Preview:
    """Read the pictures of a preview.

    Args:
        source: A regular file.
        limits: What it may ask for.

    Returns:
        The preview, without peaks.

    Raises:
        NoStream: If the file has no picture.
    """
    info = probe_media(source, limits)
    if not info.has_video:
        raise NoStream("the file has no picture")
    duration = info.duration_seconds or 0.0
    if duration <= SHORT_SECONDS:
        preview = join_parts(_read_all(source, limits, VIDEO), duration)
        if preview.thumbnail is not None:
            return preview
        return replace(preview, thumbnail=read_thumbnail(source, THUMBNAIL_SHARE * duration, limits))
    slots = (duration * number / NUM_TILES for number in range(NUM_TILES))
    read = [_read_moment(source, seconds, limits).preview for seconds in slots]
    parts = [part for part in read if part is not None]
    thumbnail = read_thumbnail(source, THUMBNAIL_SHARE * duration, limits)
    return replace(join_parts(parts, duration), thumbnail=thumbnail)


def read_peaks(source: MediaSource, limits: DecodeLimits | None = None) -> Preview:
    """Read the peaks of a preview, likewise."""
    return join_parts(_read_all(source, limits, AUDIO), None)


def read_thumbnail(source: MediaSource, seconds: float, limits: DecodeLimits | None = None) -> bytes:
    """Read the picture on screen at a time, to a tenth of a second before it.

    Args:
        source: A regular file.
        seconds: The time; past the last picture that one is taken, or one shortly before.
        limits: What the file may ask for.

    Returns:
        A JPEG.

    Raises:
        BrokenMedia: If no picture decodes there or before.
    """
    for back in STEPS_BACK:
        decoded = _read_moment(source, max(0.0, seconds - back), limits, is_thumbnail=True)
        if decoded.preview is not None and decoded.preview.thumbnail:
            return decoded.preview.thumbnail
        seconds = min(seconds, decoded.info.duration_seconds or seconds)
        if back > seconds:
            break
    raise BrokenMedia("no picture of the file decodes at this time")


def read_waveform(
    source: MediaSource, start: float, end: float, pixels: int, limits: DecodeLimits | None = None
) -> Peaks:
    """Read the peaks of a stretch, to the sample; see `draw_waveform`.

    Args:
        source: A regular file.
        start: Start, in seconds.
        end: End, in seconds.
        pixels: How many pairs.
        limits: What the file may ask for.

    Returns:
        Lowest and highest of each pixel, shape (pixels, 2).
    """
    spec = SEGMENT_SPEC
    first, stop = int(start / spec.segment_seconds), math.ceil(end / spec.segment_seconds)
    decoded = decode_segments(
        source, spec, first=first, count=max(1, stop - first), limits=limits, modalities=[AUDIO]
    )
    origin = first * spec.segment_seconds
    samples = np.zeros(((stop - first) * spec.segment_samples, 2), np.int8)
    for clip in decoded.clips:
        if clip.samples is not None:
            place = round((clip.start_seconds - origin) * spec.sample_rate_hz)
            heard = clip.samples[: len(samples) - place]
            samples[place : place + len(heard)] = to_int8(heard)[:, None]
    shifted = (start - origin, end - origin)
    return draw_waveform(samples, 1 / spec.sample_rate_hz, start=shifted[0], end=shifted[1], pixels=pixels)


def _read_all(source: MediaSource, limits: DecodeLimits | None, modality: Modality) -> list[PreviewPart]:
    parts: list[PreviewPart] = []
    is_last = False
    while not is_last:
        decoded = decode_segments(
            source,
            SEGMENT_SPEC,
            first=len(parts) * CHUNK_SEGMENTS,
            count=CHUNK_SEGMENTS,
            limits=limits,
            modalities=[modality],
            with_preview=True,
        )
        is_last = decoded.is_last
        if decoded.preview is not None:
            parts.append(decoded.preview)
    return parts


def _read_moment(
    source: MediaSource, seconds: float, limits: DecodeLimits | None, *, is_thumbnail: bool = False
) -> DecodedMedia:
    first = int(seconds / STEP_SECONDS + 1e-6)
    return decode_segments(
        source,
        MOMENT_SPEC,
        first=first,
        count=1,
        limits=limits,
        modalities=[VIDEO],
        with_preview=True,
        preview_at=first * STEP_SECONDS if is_thumbnail else None,
    )
