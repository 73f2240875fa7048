"""A still picture as a query: the clip in which nothing moves.

    info, frames = read_still("dog.jpg", ClipSpec(), DecodeLimits())
    frames.shape    # (16, 224, 224, 3), all equal

JPEG, PNG, WebP, GIF and AVIF, by Pillow; a library holds none. Of an animation the first picture counts. A picture is
shown as a viewer shows it: turned as its EXIF says, on white where it is transparent.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from models.media.foreign import PICTURES
from models.media.frame import Pixels, crop_square, stretch_square
from models.media.limits import DecodeLimits
from models.media.opening import MediaInfo
from models.media.regular import MediaSource, clamp_time_ns, open_regular
from models.media.timeline import ClipSpec
from models.media.unreadable import BrokenMedia, NotMedia, TooComplex, UnreadableClip

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF")
NAMES = frozenset({"JPEG", "PNG", "WebP", "GIF", "HEIF"})
"""Of those that begin as these do a query may be one; AVIF is a kind of HEIF, HEIC is one that Pillow cannot read."""
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What shows a picture upright, by its EXIF orientation."""
BACKGROUND = (255, 255, 255)
MAX_STILL_BYTES = 256 << 20


def is_still_file(source: MediaSource) -> bool:
    """Whether a file begins as a picture that a query may be.

    Args:
        source: A regular file.

    Returns:
        What its first bytes say.
    """
    with open_regular(source) as (descriptor, _):
        head = os.pread(descriptor, 32, 0)
    return any(start.match(head) and name in NAMES for start, name in PICTURES)


def probe_still(source: MediaSource, limits: DecodeLimits) -> MediaInfo:
    """Read the facts of a picture from its header.

    Args:
        source: A regular file.
        limits: The largest picture.

    Returns:
        The facts, with width and height as shown.
    """
    with _open_still(source, limits) as (picture, info):
        width, height = picture.size[::-1] if _orientation(picture) >= 5 else picture.size
        return replace(info, width=width, height=height)


def read_still(
    source: MediaSource, spec: ClipSpec, limits: DecodeLimits
) -> tuple[MediaInfo, NDArray[np.uint8]]:
    """Read a picture as the equal frames of one segment.

    Args:
        source: A regular file.
        spec: How many frames there are, and how they become square; where every frame of a segment is taken it is one.
        limits: The largest picture.

    Returns:
        The facts and the frames, uint8, shape (F, H, W, 3).
    """
    with _open_still(source, limits) as (picture, info):
        pixels = _to_pixels(picture)
        height, width = pixels.shape[:2]
        square = stretch_square if spec.frame_shape == "stretch" else crop_square
        frame = square(pixels, spec.frame_size)
        num_frames = 1 if spec.frame_times == "all" else spec.frames_per_segment
        return replace(info, width=width, height=height), np.repeat(frame[None], num_frames, axis=0)


@contextlib.contextmanager
def _open_still(source: MediaSource, limits: DecodeLimits) -> Iterator[tuple[Image.Image, MediaInfo]]:
    """Open a picture without decoding it, and say of whatever Pillow raises that the file is damaged."""
    with open_regular(source) as (descriptor, status):
        if status.st_size > MAX_STILL_BYTES:
            raise TooComplex(
                f"a picture may have at most {MAX_STILL_BYTES} bytes, this one has {status.st_size}"
            )
        with os.fdopen(os.dup(descriptor), "rb") as file:
            content = io.BytesIO(file.read(MAX_STILL_BYTES))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of sizes, which have limits here, and of odd metadata
                with Image.open(content, formats=FORMATS) as picture:
                    limits.check_frame_size(*picture.size)
                    name = str(picture.format).lower()
                    info = MediaInfo(
                        container=name,
                        size_bytes=status.st_size,
                        modified_ns=clamp_time_ns(status.st_mtime_ns),
                        duration_seconds=None,
                        has_video=True,
                        video_codec=name,
                        is_static=True,
                    )
                    yield picture, info
        except UnreadableClip:
            raise
        except UnidentifiedImageError as exc:
            if content.getvalue()[4:8] == b"ftyp":
                raise NotMedia("this is a HEIC picture, which is not read: save it as JPEG or PNG") from exc
            raise BrokenMedia("the picture is damaged: its header cannot be read") from exc
        except Image.DecompressionBombError as exc:
            limit = f"{limits.max_frame_width} x {limits.max_frame_height}"
            raise TooComplex(f"a picture may have at most {limit} pixels: {exc}") from exc
        except MemoryError:
            raise
        except Exception as exc:  # Pillow raises a dozen unrelated types for a damaged file
            raise BrokenMedia(f"the picture is damaged: {exc}") from exc


def _orientation(picture: Image.Image) -> int:
    """How the picture is to be turned, 1 to 8; 1 if its metadata cannot be read."""
    try:
        found = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged metadata is no damaged picture
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _to_pixels(picture: Image.Image) -> Pixels:
    """The picture as it is shown, RGB, uint8, shape (H, W, 3)."""
    orientation = _orientation(picture)
    picture.load()
    shown: Image.Image = picture
    if picture.mode.startswith(("I", "F")):  # 16 bits of grey: a conversion would cut them off at 255
        numbers: NDArray[Any] = np.asarray(picture)
        shown = Image.fromarray((numbers.clip(0, 65_535).astype(np.uint32) >> 8).astype(np.uint8))
    elif picture.has_transparency_data:
        layered = picture.convert("RGBA")
        shown = Image.new("RGB", layered.size, BACKGROUND)
        shown.paste(layered, mask=layered.getchannel("A"))
    shown = shown.convert("RGB")
    if orientation in TURNS:
        shown = shown.transpose(TURNS[orientation])
    return np.asarray(shown)
