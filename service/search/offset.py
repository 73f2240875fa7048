"""How much later the sound of a file is than its picture, by the moments that are stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from service.index.contract import Segment
from service.system.modality import Track

MIN_GAIN, MIN_DEVIATIONS = 0.02, 3.0
"""How much better a file must fit with its sound moved to be called shifted: in mean cosine, and in standard errors."""
CORRELATED_MOMENTS = 4
"""Neighbouring moments see and hear nearly the same: this many count as one."""
MIN_SHARE = 0.5
"""Share of the moments that must overlap at an offset, and minimum number of them."""
MIN_MOMENTS = 12


def find_offset(
    segments: Sequence[Segment], segment_seconds: float, max_offset_seconds: float
) -> tuple[float, float, float]:
    """Compare the moments of sound and picture with one moved against the other.

    Returns how much later the sound is than the picture in seconds, 0 if moving it gains too little; the mean cosine
    there; and the mean cosine without moving.
    """
    step, sound, picture = _lay_out(segments, segment_seconds)
    plain = _cosines(sound, picture, 0)
    num_plain = np.count_nonzero(~np.isnan(plain))
    reach = min(round(max_offset_seconds / step), len(sound) - 1)
    least = max(MIN_MOMENTS, MIN_SHARE * num_plain)
    before = float(np.nanmean(plain)) if num_plain else 0.0
    best, gained = 0, before
    for lag in sorted(range(-reach, reach + 1), key=abs):
        moved = _cosines(sound, picture, lag)
        if np.count_nonzero(~np.isnan(moved)) >= least and np.nanmean(moved) > gained:
            best, gained = lag, float(np.nanmean(moved))
    gains = _cosines(sound, picture, best) - plain
    if best == 0 or gained - before < MIN_GAIN or _deviations(gains[~np.isnan(gains)]) < MIN_DEVIATIONS:
        return 0.0, before, before
    return best * step, gained, before


def _cosines(sound: NDArray[np.float32], picture: NDArray[np.float32], lag: int) -> NDArray[np.float32]:
    """Cosines of the picture with the sound `lag` steps later, shape (N,); NaN if one is missing."""
    moved = np.full_like(sound, np.nan)
    num_steps = len(sound)
    moved[max(0, -lag) : num_steps - max(0, lag)] = sound[max(0, lag) : num_steps - max(0, -lag)]
    return np.asarray((moved * picture).sum(axis=1))


def _deviations(gains: NDArray[np.float32]) -> float:
    """The mean gain of moments in standard errors."""
    if len(gains) < MIN_MOMENTS:
        return 0.0
    error = gains.std(ddof=1) / np.sqrt(len(gains) / CORRELATED_MOMENTS)
    return float(gains.mean() / max(error, 1e-9))


def _lay_out(
    segments: Sequence[Segment], segment_seconds: float
) -> tuple[float, NDArray[np.float32], NDArray[np.float32]]:
    """Sound and picture on one time line: its step in seconds, and rows (N, D) each, of NaN if there is nothing."""
    tracks = [(to_unit(s.audio_track), to_unit(s.video_track)) for s in segments]
    num_moments, width = next(track.shape for pair in tracks for track in pair if track is not None)
    step = segment_seconds / num_moments
    num_steps = int(np.ceil(max(segment.end_seconds for segment in segments) / step)) + 1
    lines = np.full((2, num_steps, width), np.nan, np.float32)
    for segment, pair in zip(segments, tracks, strict=True):
        length = segment.end_seconds - segment.start_seconds
        times = segment.start_seconds + np.arange(num_moments) * length / num_moments
        for line, track in zip(lines, pair, strict=True):
            if track is not None:
                line[np.round(times / step).astype(int)] = track
    return step, lines[0], lines[1]


@overload
def to_unit(track: Track) -> Track: ...
@overload
def to_unit(track: None) -> None: ...
def to_unit(track: Track | None) -> Track | None:
    """Rows of unit length: those of a bundle that compares by dot product have any, and an audit looks at cosines."""
    return None if track is None else track / np.linalg.norm(track, axis=-1, keepdims=True).clip(1e-12)
