"""A decoded frame → the upright square picture that the encoder sees."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def read_display_matrix(frame: Any) -> tuple[int, int, int, int] | None:
    """Return the numbers a, b, c, d that turn and mirror a decoded frame, or None if it is stored upright."""
    try:
        matrix = np.frombuffer(frame.side_data["DISPLAYMATRIX"], np.int32)
    except (KeyError, ValueError):  # ValueError: the frame carries data of a kind that PyAV cannot name
        return None
    return int(matrix[0]), int(matrix[1]), int(matrix[3]), int(matrix[4])


def turn_upright(pixels: Pixels, matrix: tuple[int, int, int, int] | None) -> Pixels:
    """Turn and mirror a picture as its display matrix says, to the nearest quarter turn.

    Args:
        pixels: Stored picture, uint8, shape (H, W, 3).
        matrix: a, b, c, d: the point (x, y) of the stored picture is shown at (a·x + c·y, b·x + d·y).

    Returns:
        The picture as shown, uint8, shape (H, W, 3), or (W, H, 3) after a quarter turn.
    """
    if matrix is None:
        return pixels
    a, b, c, d = matrix
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return pixels.transpose(1, 0, 2)[:: -1 if b < 0 else 1, :: -1 if c < 0 else 1]


def stretch_square(pixels: Pixels, size: int) -> Pixels:
    """Resize a picture to a square with an antialiased bilinear filter, without keeping its shape.

    Args:
        pixels: RGB picture, uint8, shape (H, W, 3).
        size: Side of the square, in pixels.

    Returns:
        The square, uint8, shape (size, size, 3).
    """
    return np.asarray(
        Image.fromarray(np.ascontiguousarray(pixels)).resize((size, size), Image.Resampling.BILINEAR)
    )


def crop_square(pixels: Pixels, size: int, *, shown: tuple[int, int] | None = None) -> Pixels:
    """Resize the shorter side with an antialiased bilinear filter, then cut the square from the middle.

    Only the square's own region is filtered; the result is that of resizing the whole picture first.

    Args:
        pixels: RGB picture, uint8, shape (H, W, 3).
        size: Side of the square, in pixels.
        shown: Width and height at which it is shown, if its pixels are not square.

    Returns:
        The square, uint8, shape (size, size, 3).
    """
    height, width = pixels.shape[:2]
    shown_width, shown_height = shown or (width, height)
    # As in torchvision: the longer side is rounded down, the corner of the square to the nearest pixel.
    scaled_width = size if shown_width <= shown_height else size * shown_width // shown_height
    scaled_height = size if shown_height <= shown_width else size * shown_height // shown_width
    x0, x1, left, right = _cut_axis(width, scaled_width, size)
    y0, y1, top, bottom = _cut_axis(height, scaled_height, size)
    region = Image.fromarray(np.ascontiguousarray(pixels[y0:y1, x0:x1]))
    square = region.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, right, bottom))
    return np.asarray(square)


def _cut_axis(length: int, scaled: int, size: int) -> tuple[int, int, float, float]:
    """Along one axis: the pixels the filter reads, and where in them the square starts and ends."""
    scale = length / scaled
    start = round((scaled - size) / 2.0) * scale
    end = min(start + size * scale, length)
    reach = math.ceil(scale) + 1  # the filter reaches one pixel of the result beyond the square
    low = max(0, math.floor(start) - reach)
    high = min(length, math.ceil(end) + reach)
    return low, high, start - low, min(end - low, high - low)
