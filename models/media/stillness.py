"""Sound and pictures that tell nothing: silence, and a picture in which nothing changes.

Thresholds, measured on files that `ffmpeg` made (tests/models/media/test_stillness.py has the kinds):

- Silence of 14 codecs, also with dither of 16 bits, swings by -86 dBFS at most around its mean; a room of -88 dBFS RMS
  at 16 kHz, quieter than microphones are, by -75. A-law has no zero: its silence is a constant.
- A still picture in H.264, MPEG-2, MPEG-4, HEVC or VP8 changes in its 32 x 32 cells by up to 5 of 255, and by up to 10
  while a coder of fixed bit rate sharpens it. A dot of 2 pixels of the square that moves changes a cell by 12, a moving
  chart at 6 % of its contrast by 7.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

MAX_SILENT_SWING = 2.0**-14
"""Silence stays this close to its mean: two steps of 16 bits, -84 dBFS."""
CELLS = 32
"""Cells along a side of the square whose means are compared: noise of the coding and of a tape goes under in them."""
MAX_STILL_CHANGE = 5.0
"""Largest change of a cell of a still picture, of 255."""
MAX_SETTLING_CHANGE = 10.0
"""The same with the first quarter of the moments, while a coder sharpens the picture."""


def is_silence(samples: NDArray[np.float32]) -> bool:
    """Whether sound is digital silence, or no louder than dither of 16 bits.

    Args:
        samples: Mono sound, float32, shape (S,), S at least 1.

    Returns:
        True if it tells nothing.
    """
    return float(np.ptp(samples)) <= 2 * MAX_SILENT_SWING


def is_still(frames: NDArray[np.uint8]) -> bool:
    """Whether nothing changes in a picture beyond what coding does to it: one colour, a photograph, test bars.

    Args:
        frames: The moments of a segment, uint8, shape (T, H, W, 3), H = W.

    Returns:
        True if it is one picture all the time.
    """
    num_moments, size = frames.shape[:2]
    cell = -(-size // CELLS)
    cells = size // cell
    cut = frames[:, : cells * cell, : cells * cell].reshape(num_moments, cells, cell, cells, cell, 3)
    # (T, cells, cells, 3); rows first, and whole numbers: `mean` over both takes 16 times as long
    means = cut.sum(2, dtype=np.uint32).sum(3).astype(np.float32) / np.float32(cell * cell)
    settled = means[num_moments // 4 :]
    return bool(
        np.ptp(means, axis=0).max() <= MAX_SETTLING_CHANGE
        and np.ptp(settled, axis=0).max() <= MAX_STILL_CHANGE
    )


def all_known(facts: Iterable[bool | None]) -> bool | None:
    """Whether a fact holds for every part of which it is known.

    Args:
        facts: One for each part; None where there is nothing to judge.

    Returns:
        The fact about the whole; None if it is known of no part.
    """
    known = [fact for fact in facts if fact is not None]
    return all(known) if known else None
