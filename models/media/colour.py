"""High dynamic range and wide gamut to what an SDR screen shows: the encoders learned from SDR pictures.

PQ: SMPTE ST 2084. HLG: ITU-R BT.2100, on a screen of 1,000 cd/m². White: 203 cd/m² (ITU-R BT.2408). The result is for
a screen of gamma 2.4 (ITU-R BT.1886). It works on 16 bits: 8 bits of PQ are steps of 4 %, too coarse for a change of
gamut.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Value = TypeVar("Value", np.uint8, np.uint16)

BT2020_PRIMARIES = 9
PQ, HLG = 16, 18
"""FFmpeg's numbers of the transfer curves."""
HD_HEIGHT = 720
"""Pictures of this many lines and more that name no matrix are BT.709, smaller ones BT.601."""
UNSPECIFIED, BT709, BT601 = 2, 1, 5

WHITE_NITS = 203.0
HLG_PEAK_NITS = 1000.0
SDR_GAMMA = 2.4
KNEE = 0.9
"""Linear light above this share of white is rolled off, so that highlights keep their drawing."""
# Linear BT.2020 → linear BT.709 (ITU-R BT.2087).
TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)


def matrix_of(frame: Any) -> int:
    """FFmpeg's number of the matrix that turns a frame's YUV into RGB."""
    if frame.colorspace != UNSPECIFIED:
        return int(frame.colorspace)
    return BT709 if frame.height >= HD_HEIGHT else BT601


def needs_mapping(frame: Any) -> bool:
    """Whether a frame has a high dynamic range or a wide gamut."""
    return frame.color_trc in (PQ, HLG) or frame.color_primaries == BT2020_PRIMARIES


def rows_of(picture: Any, kind: type[Value]) -> NDArray[Value]:
    """The packed RGB picture as an array, shape (H, W, 3)."""
    plane = picture.planes[0]
    rows = np.frombuffer(plane, kind).reshape(picture.height, plane.line_size // np.dtype(kind).itemsize)
    return rows[:, : 3 * picture.width].reshape(picture.height, picture.width, 3)


def show_on_sdr(pixels: NDArray[np.uint16], *, primaries: int, transfer: int) -> Pixels:
    """Map a picture to BT.709 in SDR.

    Args:
        pixels: RGB as stored, uint16, shape (H, W, 3).
        primaries: FFmpeg's number of the primaries.
        transfer: FFmpeg's number of the transfer curve.

    Returns:
        The picture, uint8, shape (H, W, 3).
    """
    light = _to_light(pixels.astype(np.float32) / np.float32(65535), transfer)
    if primaries == BT2020_PRIMARIES:
        light = light @ TO_BT709.T
    shown = np.clip(_roll_off(np.maximum(light, 0)), 0, 1) ** (1 / SDR_GAMMA)
    return np.round(shown * 255).astype(np.uint8)


def _to_light(signal: NDArray[np.float32], transfer: int) -> NDArray[np.float32]:
    """Linear light, 1 at white."""
    if transfer == PQ:
        power = signal ** (1 / 78.84375)
        nits = 10_000 * (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (
            1 / 0.1593017578125
        )
        return np.asarray(nits / WHITE_NITS, np.float32)
    if transfer == HLG:
        low, high = signal**2 / 3, (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12
        scene = np.where(signal <= 0.5, low, high).astype(np.float32)
        luminance = scene @ LUMINANCE
        return np.asarray(scene * luminance[..., None] ** 0.2 * (HLG_PEAK_NITS / WHITE_NITS), np.float32)
    return np.asarray(signal**SDR_GAMMA, np.float32)


def _roll_off(light: NDArray[np.float32]) -> NDArray[np.float32]:
    room = 1 - KNEE
    above = np.maximum(light - KNEE, 0)
    return np.asarray(np.minimum(light, KNEE) + room * (1 - np.exp(-above / room)), np.float32)
