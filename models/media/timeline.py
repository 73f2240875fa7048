"""Where segments and moments lie on the timeline of a file, whose time 0 is its first frame or sample.

    segment_bounds(25.5, ClipSpec())   # [(0.0, 10.0), (10.0, 20.0), (20.0, 25.5)]

The times of frames in a segment follow from its length (picture i of F lies at i/F) or from the frames that are in it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any, Literal, get_args

FrameTimes = Literal["moments", "ends", "all"]
FrameShape = Literal["crop", "stretch"]
TIME_TOLERANCE_SECONDS = 1e-6
"""Times closer than this are the same: timestamps pass through floats."""


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """What a clip looks like to the encoders."""

    num_moments: int = 16
    """Embeddings of a segment, one for each moment."""
    num_frames: int | None = None
    """Pictures of a segment; None for one a moment."""
    frame_times: FrameTimes = "moments"
    """Picture i of F: the one on screen at i/F of the segment (`moments`), frame int(i·(n−1)/(F−1)) of the n frames in
    it, so the first and the last (`ends`), or every frame (`all`)."""
    frame_shape: FrameShape = "crop"
    """How a picture becomes square: cut from the middle, or resized without keeping its shape."""
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
            if isinstance(value, int | float) and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value}")
        for name, known in (("frame_times", FrameTimes), ("frame_shape", FrameShape)):
            if getattr(self, name) not in get_args(known):
                raise ValueError(f"{name} must be one of {get_args(known)}, got {getattr(self, name)!r}")
        if not (self.segment_seconds * self.sample_rate_hz).is_integer():
            raise ValueError(f"a segment must be a whole number of samples, got {self.segment_seconds} s")

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values; without those that came later where they say what was so before them."""
        later = {"num_frames": None, "frame_times": "moments", "frame_shape": "crop"}
        return {
            name: value for name, value in vars(self).items() if name not in later or value != later[name]
        }

    @property
    def frames_per_segment(self) -> int:
        """Pictures of a segment, if it has not all of them."""
        return self.num_moments if self.num_frames is None else self.num_frames

    @property
    def segment_samples(self) -> int:
        """Samples of a full segment."""
        return round(self.segment_seconds * self.sample_rate_hz)


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


@dataclass(frozen=True, kw_only=True)
class MomentPlan:
    """The times at which frames are wanted, as far as the length of the file is known before it is decoded.

    Worked example: 16 moments, 10 s segments, a file of 13 s: 0, 0.625 ... 9.375, then 10, 10.1875 ... 12.8125.
    """

    spec: ClipSpec
    """Moments and length of a segment."""
    first: int = 0
    """First wanted segment."""
    stop: int | None = None
    """Segment after the last wanted one; None for all that come."""
    duration_seconds: float | None = None
    """Where the file is thought to end: the segment in which that lies is shorter."""
    frame_starts: tuple[float, ...] = ()
    """When the frames of these segments come on screen, rising, if the times of pictures depend on them."""

    @property
    def start_seconds(self) -> float:
        """Start of the first wanted segment."""
        return self.first * self.spec.segment_seconds

    @property
    def stop_seconds(self) -> float:
        """End of the last wanted segment if it were full; infinite if all are wanted."""
        return math.inf if self.stop is None else self.stop * self.spec.segment_seconds

    def has(self, segment: int) -> bool:
        """Whether the segment is a wanted one."""
        return self.first <= segment and (self.stop is None or segment < self.stop)

    def bounds(self, segment: int) -> tuple[float, float]:
        """Planned start and end of a segment, in seconds."""
        start = segment * self.spec.segment_seconds
        end = start + self.spec.segment_seconds
        if self.duration_seconds is not None and start < self.duration_seconds:
            end = min(end, self.duration_seconds)
        return start, end

    def count(self, segment: int) -> int:
        """How many pictures the segment has: of one without a frame of its own, the one held from before."""
        if self.spec.frame_times != "all":
            return self.spec.frames_per_segment
        low, high = self._frames_of(segment)
        return max(1, high - low)

    def time(self, segment: int, picture: int) -> float:
        """Planned time of a picture of a segment, in seconds; infinite in a segment that is not wanted."""
        if not self.has(segment):
            return math.inf
        if self.spec.frame_times == "moments":
            start, end = self.bounds(segment)
            return start + (end - start) * picture / self.spec.frames_per_segment
        low, high = self._frames_of(segment)
        if low == high:
            return segment * self.spec.segment_seconds
        if self.spec.frame_times == "ends":
            picture = picture * (high - low - 1) // max(1, self.spec.frames_per_segment - 1)
        return self.frame_starts[low + picture]

    def next_time(self, seconds: float) -> float:
        """The earliest planned time that is not before the given one; infinite after the last."""
        segment = max(self.first, math.floor(seconds / self.spec.segment_seconds))
        for picture in range(self.count(segment)):
            if (planned := self.time(segment, picture)) >= seconds - TIME_TOLERANCE_SECONDS:
                return planned
        return self.time(segment + 1, 0)

    def _frames_of(self, segment: int) -> tuple[int, int]:
        """Which frames come on screen in a segment: its first in `frame_starts`, and the one after its last."""
        start, stop = (number * self.spec.segment_seconds for number in (segment, segment + 1))
        low, high = (bisect_left(self.frame_starts, at - TIME_TOLERANCE_SECONDS) for at in (start, stop))
        return low, high
