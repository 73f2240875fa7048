"""Small pictures and peaks of the sound, taken while a file is decoded for something else.

    decoded = decode_segments("holiday.mp4", ClipSpec(), with_preview=True)
    decoded.preview.tiles, decoded.preview.peaks

`models.media.preview` makes a thumbnail, a filmstrip and a waveform of them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin  # noqa: F401 - the sandbox can load no plugin later

from models.media.frame import Pixels
from models.media.timeline import TIME_TOLERANCE_SECONDS, MomentPlan

NUM_TILES = 16
TILE_SIDE = 120  # the longer one, as that of the thumbnail, in pixels
THUMBNAIL_SIDE = 320
THUMBNAIL_SHARE = 0.1  # of the length: films begin in black
MAX_THUMBNAIL_BYTES = 14_000
MAX_STRIP_BYTES = 16_000
QUALITIES = (70, 45, 25, 8)
MAX_BUCKETS = 4096  # of the peaks of a file
DEFAULT_BUCKETS = 64  # of a segment, if the length of the file is not known

Peaks = NDArray[np.int8]
"""Lowest and highest sample of each bucket, -127 to 127, shape (N, 2)."""


@dataclass(frozen=True, kw_only=True)
class PreviewPart:
    """What was taken of some segments of a file.

    Attributes:
        tiles: When each small picture is on screen, in seconds, and its pixels, uint8 (H, W, 3).
        thumbnail: A JPEG, if the moment for it lies in these segments.
        bucket_seconds: Length of a bucket of the peaks, the same in all parts of a file.
        peaks: Where each segment starts, in seconds, and its peaks.
    """

    tiles: Sequence[tuple[float, Pixels]]
    thumbnail: bytes | None
    bucket_seconds: float
    peaks: Sequence[tuple[float, Peaks]]


class PictureSampler:
    """Takes one picture for each slot of a file's length, and one for its thumbnail, from those shown in order.

    Args:
        plan: The segments that are read.
        at_seconds: Take the first picture from this time on as thumbnail, and no tiles.
    """

    def __init__(self, plan: MomentPlan, *, at_seconds: float | None = None) -> None:
        self.tiles: list[tuple[float, Pixels]] = []
        self.thumbnail: Pixels | None = None
        duration = plan.duration_seconds or 0.0
        self._takes_tiles = at_seconds is None
        self._slot_seconds = duration / NUM_TILES or plan.spec.segment_seconds
        at = THUMBNAIL_SHARE * duration if at_seconds is None else at_seconds
        is_here = plan.start_seconds <= at + TIME_TOLERANCE_SECONDS < plan.stop_seconds
        self._thumbnail_at = at if is_here else math.inf
        self._slot = -1

    def show(self, seconds: float, upright: Pixels, shown: tuple[int, int]) -> None:
        """Take a picture, if it is wanted; `shown` is its width and height with square pixels."""
        seconds += TIME_TOLERANCE_SECONDS
        if self.thumbnail is None and seconds >= self._thumbnail_at:
            self.thumbnail = shrink(upright, shown, THUMBNAIL_SIDE)
        slot = int(seconds / self._slot_seconds)
        if self._takes_tiles and slot > self._slot:
            self._slot = slot
            self.tiles.append((seconds, shrink(upright, shown, TILE_SIDE)))


def shrink(pixels: Pixels, shown: tuple[int, int], side: int) -> Pixels:
    """Bring a picture to at most `side` pixels along its longer side.

    Args:
        pixels: RGB, uint8, shape (H, W, 3).
        shown: Width and height at which it is shown.
        side: The longer side of the result.

    Returns:
        The small picture, uint8, shape (h, w, 3).
    """
    scale = min(1.0, side / max(shown))
    width, height = (max(1, round(length * scale)) for length in shown)
    # Two of three pixels of a large picture change nothing that can be seen in one of 120.
    step = max(1, int(min(pixels.shape[0] / height, pixels.shape[1] / width) / 1.4))
    some = np.ascontiguousarray(pixels[step // 2 :: step, step // 2 :: step])
    return np.asarray(Image.fromarray(some).resize((width, height), Image.Resampling.BILINEAR))


def encode_jpeg(pixels: Pixels, max_bytes: int) -> bytes:
    """Encode a picture, RGB uint8 (H, W, 3), as JPEG with the best quality that fits."""
    content = b""
    for quality in QUALITIES:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        content = file.getvalue()
        if len(content) <= max_bytes:
            break
    return content


def count_buckets(plan: MomentPlan) -> int:
    """Buckets of a full segment, so that a file has about `MAX_BUCKETS`."""
    spec, duration = plan.spec, plan.duration_seconds
    wanted = MAX_BUCKETS * spec.segment_seconds / duration if duration else DEFAULT_BUCKETS
    return max(1, min(int(wanted), spec.segment_samples))


def measure_peaks(samples: NDArray[np.float32], size: int, num_buckets: int) -> Peaks:
    """Peaks of the sound of a segment.

    Args:
        samples: Mono, float32, shape (S,), from the start of the segment.
        size: Samples of a full segment.
        num_buckets: Buckets of a full segment, at most as many.

    Returns:
        The peaks of the buckets that the samples reach.
    """
    count = -(-len(samples) * num_buckets // size)
    starts = np.arange(count) * size // num_buckets
    starts = starts[starts < len(samples)]
    both = (np.minimum.reduceat(samples, starts), np.maximum.reduceat(samples, starts))
    return np.stack([to_int8(one) for one in both], axis=1)


def to_int8(samples: NDArray[np.float32]) -> NDArray[np.int8]:
    """Samples of full scale 1 as -127 to 127."""
    scaled: NDArray[np.int8] = np.rint(samples.clip(-1, 1) * 127).astype(np.int8)
    return scaled
