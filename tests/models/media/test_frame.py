"""From a decoded frame to the square picture."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from models.media.frame import crop_square, turn_upright
from tests.support.media_files import crop_plainly
from tests.support.paths import GOLDEN


def test_the_recorded_crop_is_matched() -> None:
    arrays = load_file(GOLDEN / "frontend_expected.safetensors")
    square = crop_square(arrays["frame_rgb"], 224).astype(int)
    expected = arrays["frame_bilinear_u8"].astype(int)
    assert square.shape == expected.shape == (224, 224, 3)
    assert (np.abs(square - expected) <= 1).mean() >= 0.99


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(0, 1000))
def test_the_crop_is_the_middle_of_the_whole_picture_resized(height: int, width: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    difference = crop_square(pixels, 64).astype(int) - crop_plainly(pixels, 64)
    # One grey level: where the box starts between two pixels, the filter weights round differently.
    assert np.abs(difference).max() <= 1


UNIT = 1 << 16


@pytest.mark.parametrize(
    "matrix",
    [
        (UNIT, 0, 0, UNIT),
        (0, UNIT, -UNIT, 0),
        (-UNIT, 0, 0, -UNIT),
        (0, -UNIT, UNIT, 0),
        (-UNIT, 0, 0, UNIT),
        (UNIT, 0, 0, -UNIT),
        (0, UNIT, UNIT, 0),
        (0, -UNIT, -UNIT, 0),
    ],
)
def test_turning_moves_every_pixel_where_the_matrix_says(matrix: tuple[int, int, int, int]) -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    a, b, c, d = (value // UNIT for value in matrix)
    places = {(a * x + c * y, b * x + d * y): pixels[y, x] for y in range(2) for x in range(3)}
    low_x, low_y = min(x for x, _ in places), min(y for _, y in places)
    shown = turn_upright(pixels, matrix)
    for (x, y), pixel in places.items():
        assert (shown[y - low_y, x - low_x] == pixel).all()


def test_an_upright_picture_stays() -> None:
    pixels = np.zeros((2, 3, 3), np.uint8)
    assert turn_upright(pixels, None) is pixels
