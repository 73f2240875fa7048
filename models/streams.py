"""From packets of one stream to what segments need: pictures on screen at given times, and mono sound at one rate.

Both readers are fed packets in file order and keep only what is asked for:

    pictures.feed(packet); sound.feed(packet); pictures.finish(); sound.finish()
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable
from typing import Any

import av
import av.error
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from PIL import Image

from models.media import DecodeLimits, TooComplex

TIME_TOLERANCE_SECONDS = 1e-6
"""A frame this much later than the asked time still counts as shown then: timestamps pass through floats."""
JITTER_TOLERANCE_SECONDS = 0.04
"""Sound whose timestamp is off by less than this follows on; beyond it there is a gap or an overlap."""
MAX_AMPLITUDE = 1000.0
"""Float sound is clipped here, 60 dB over full scale: a broken file must not overflow what comes after."""
EXACT_SKIP_CODECS = frozenset({"h264", "mpeg1video", "mpeg2video"})
"""Codecs whose frames say reliably that no other frame is built from them."""
MAX_QUEUED_PACKETS = 256

Pixels = NDArray[np.uint8]
Waveform = NDArray[np.float32]


class SkippingInexact(Exception):
    """Skipping might have changed the choice of a frame: decode every frame instead."""


class LandedLate(Exception):
    """A seek came down after the time that is needed: seek further back."""


class MomentPlan:
    """The times at which frames are wanted, in order: moment i of segment k at start + i/T of the segment's length.

    Worked example: 16 moments, 10 s segments, a file of 13 s: 0, 0.625, ... 9.375, then 10, 10.1875, ... 12.8125.

    Args:
        num_moments: Moments of a segment, T.
        segment_seconds: Length of a full segment.
        first: First wanted segment.
        stop: Segment after the last wanted one; None for all that come.
        duration_seconds: Where the file ends, as far as known: the segment it falls into is shorter.
    """

    def __init__(
        self,
        *,
        num_moments: int,
        segment_seconds: float,
        first: int,
        stop: int | None,
        duration_seconds: float | None,
    ) -> None:
        self.num_moments = num_moments
        self.first = first
        self.stop = stop
        self._segment_seconds = segment_seconds
        self._duration_seconds = duration_seconds

    @property
    def start_seconds(self) -> float:
        """Start of the first wanted segment."""
        return self.first * self._segment_seconds

    @property
    def stop_seconds(self) -> float:
        """End of the last wanted segment were it full; infinite where all are wanted."""
        return math.inf if self.stop is None else self.stop * self._segment_seconds

    def bounds(self, segment: int) -> tuple[float, float]:
        """Start and end of a segment, in seconds, as planned."""
        start = segment * self._segment_seconds
        end = start + self._segment_seconds
        if self._duration_seconds is not None and start < self._duration_seconds:
            end = min(end, self._duration_seconds)
        return start, end

    def times(self, segment: int) -> list[float]:
        """The T times of one segment, in seconds."""
        start, end = self.bounds(segment)
        return [start + (end - start) * i / self.num_moments for i in range(self.num_moments)]

    def next_time(self, seconds: float) -> float:
        """The earliest wanted time that is not before the given one; infinite after the last."""
        segment = max(self.first, math.floor(seconds / self._segment_seconds))
        for candidate in (segment, segment + 1):
            if self.stop is not None and candidate >= self.stop:
                break
            for time in self.times(candidate):
                if time >= seconds - TIME_TOLERANCE_SECONDS:
                    return time
        return math.inf


class PictureReader:
    """Picks from one video stream the frame that is on screen at each planned time.

    That is the last frame with a timestamp at or before the time; the first frame before any, the last one held after.
    Only frames that decode are considered. Where the codec allows, frames that nothing is built from and that are not
    wanted are not decoded; `SkippingInexact` is raised as soon as that could have changed the choice.

    Args:
        stream: The PyAV video stream.
        origin_seconds: Timestamp that is time 0.
        plan: The wanted times.
        frame_size: Side of the square pictures, in pixels.
        limits: The largest picture.
        can_skip: Whether frames may be left undecoded.
        has_seeked: Whether the packets start in mid-file: those before the first key frame are then dropped.
    """

    def __init__(
        self,
        stream: Any,
        *,
        origin_seconds: float,
        plan: MomentPlan,
        frame_size: int,
        limits: DecodeLimits,
        can_skip: bool,
        has_seeked: bool,
    ) -> None:
        self.end_seconds = -math.inf
        self.progress_seconds = -math.inf
        self.rotation_degrees = 0
        self.size: tuple[int, int] | None = None
        self._context = stream.codec_context
        self._context.thread_count = 1
        self._context.options = {"max_pixels": str(limits.max_frame_width * limits.max_frame_height)}
        self._time_base = stream.time_base
        self._frame_seconds = float(1 / stream.average_rate) if stream.average_rate else 0.0
        self._origin_seconds = origin_seconds
        self._plan = plan
        self._frame_size = frame_size
        self._limits = limits
        codec = self._context.codec
        self._is_intra_only = codec.intra_only
        self._can_skip = can_skip and (codec.intra_only or codec.canonical_name in EXACT_SKIP_CODECS)
        self._needs_key = has_seeked
        self._has_seeked = has_seeked
        self._floor_pts: int | None = None
        self._is_done = False
        self._queue: deque[Any] = deque()
        self._pts: list[int] = []  # sorted; of packets where frames may be skipped, else of decoded frames
        self._skipped_pts: list[int] = []  # sorted; sent or dropped as unwanted, and not seen again
        self._newest_dts = -(1 << 62)
        self._segment = plan.first
        self._moment = 0
        self._shown: Any = None
        self._shown_pixels: Pixels | None = None
        self._picks: dict[int, list[tuple[float, Pixels]]] = {}
        self._reformatter = VideoReformatter()

    @property
    def is_started(self) -> bool:
        """Whether a frame has decoded."""
        return self._shown is not None

    def feed(self, packet: Any) -> None:
        """Take the next packet of the stream.

        Args:
            packet: The PyAV packet, in file order.

        Raises:
            SkippingInexact: If a frame that was skipped might have been the right one.
        """
        dts = packet.pts if packet.dts is None else packet.dts
        if dts is not None:
            self.progress_seconds = max(self.progress_seconds, self._seconds(dts))
        if self._needs_key and not packet.is_keyframe:
            return
        if self._needs_key:
            self._needs_key, self._floor_pts = False, packet.pts
        if self._is_done:
            self._extend(packet)
        elif self.progress_seconds > self._plan.stop_seconds:
            self.finish()
            self._extend(packet)
        elif not self._can_skip:
            self._decode(packet)
        elif packet.pts is None or packet.dts is None or packet.pts < packet.dts:
            raise SkippingInexact("a packet has no proper timestamps")
        else:
            insort(self._pts, packet.pts)
            self._newest_dts = max(self._newest_dts, packet.dts)
            self._queue.append(packet)
            self._release(is_last=False)

    def finish(self) -> None:
        """Decode what is waiting and hold the last frame to the end of its segment."""
        if self._is_done:
            return
        self._is_done = True
        self._release(is_last=True)
        self._decode(None)
        while self._shown is not None and self._segment < (self._plan.stop or math.inf):
            start, _ = self._plan.bounds(self._segment)
            if start >= self.end_seconds - TIME_TOLERANCE_SECONDS:
                break
            self._pick(self._plan.times(self._segment)[self._moment])

    def frames(self, segment: int) -> tuple[Pixels, NDArray[np.float64]] | None:
        """The pictures of a segment, uint8 (T, H, W, 3), and their times in seconds, (T,); None where it has none."""
        picks = self._picks.get(segment, [])
        if len(picks) < self._plan.num_moments:
            return None
        times = np.array([time for time, _ in picks], dtype=np.float64)
        return np.stack([pixels for _, pixels in picks]), times

    def expected_times(self, wanted: list[float]) -> NDArray[np.float64]:
        """Times of the frames that are on screen at the wanted times, by the timestamps seen."""
        shown = np.array([self._seconds(pts) for pts in self._pts])
        indices = np.searchsorted(shown, np.array(wanted) + TIME_TOLERANCE_SECONDS, side="right") - 1
        return shown[np.maximum(indices, 0)]

    def _seconds(self, pts: int) -> float:
        return pts * self._time_base.numerator / self._time_base.denominator - self._origin_seconds

    def _extend(self, item: Any) -> None:
        """Note how far the stream reaches: to the end of this packet or frame."""
        if item.pts is not None:
            length = item.duration * self._time_base if item.duration else self._frame_seconds
            self.end_seconds = max(self.end_seconds, self._seconds(item.pts) + float(length))

    def _release(self, *, is_last: bool) -> None:
        """Decode the waiting packets of which it is known what follows them on screen."""
        while self._queue:
            pts = self._queue[0].pts
            position = bisect_right(self._pts, pts)
            successor = self._pts[position] if position < len(self._pts) else None
            is_known = successor is not None and successor <= self._newest_dts
            if not is_known and not is_last and len(self._queue) < MAX_QUEUED_PACKETS:
                return
            packet = self._queue.popleft()
            is_wanted = self._shown is None or not is_known or successor is None
            if not is_wanted and successor is not None:
                until = self._seconds(successor) - TIME_TOLERANCE_SECONDS
                is_wanted = self._plan.next_time(self._seconds(pts)) < until
            if is_wanted:
                self._decode(packet)
            else:
                self._skip(packet)

    def _skip(self, packet: Any) -> None:
        self._extend(packet)
        insort(self._skipped_pts, packet.pts)
        if not self._is_intra_only:
            self._context.skip_frame = "NONREF"
            self._decode(packet)
            self._context.skip_frame = "DEFAULT"

    def _decode(self, packet: Any) -> None:
        try:
            frames = self._context.decode(packet)
        except av.error.FFmpegError:
            return  # a damaged packet shows nothing: the choice is among frames that decode
        for frame in frames:
            self._show(frame)

    def _show(self, frame: Any) -> None:
        """Take the next frame in order of presentation: it ends the time of the one before."""
        if frame.pts is None:
            frame.pts = frame.dts
        if frame.pts is None or (self._floor_pts is not None and frame.pts < self._floor_pts):
            return
        if self._shown is not None and frame.pts < self._shown.pts:
            return
        self._limits.check_frame_size(frame.width, frame.height)
        if self._can_skip:
            self._check_skipping(frame)
        else:
            self._pts.append(frame.pts)
        seconds = self._seconds(frame.pts)
        if self._shown is None:
            self._start(frame, seconds)
        while (wanted := self._plan.times(self._segment)[self._moment]) < seconds - TIME_TOLERANCE_SECONDS:
            self._pick(wanted)
            if self._plan.stop is not None and self._segment >= self._plan.stop:
                break
        self._shown, self._shown_pixels = frame, None
        self._extend(frame)

    def _start(self, frame: Any, seconds: float) -> None:
        if self._has_seeked and seconds > self._plan.start_seconds + TIME_TOLERANCE_SECONDS:
            raise LandedLate(f"first frame at {seconds} s, needed {self._plan.start_seconds} s")
        self._shown = frame
        # A segment that is over before the first frame has no picture.
        while self._plan.bounds(self._segment)[1] <= seconds:
            self._segment += 1

    def _check_skipping(self, frame: Any) -> None:
        if frame.interlaced_frame:
            raise SkippingInexact("fields of one frame may come in two packets")
        position = bisect_left(self._skipped_pts, frame.pts)
        if position < len(self._skipped_pts) and self._skipped_pts[position] == frame.pts:
            del self._skipped_pts[position]

    def _pick(self, wanted: float) -> None:
        """Keep the frame on screen for the next planned time."""
        shown = self._seconds(self._shown.pts)
        low = bisect_right(self._skipped_pts, self._shown.pts)
        if any(
            self._seconds(pts) <= wanted + TIME_TOLERANCE_SECONDS for pts in self._skipped_pts[low : low + 1]
        ):
            raise SkippingInexact(f"a frame between {shown} s and {wanted} s was skipped")
        if self._shown_pixels is None:
            self._shown_pixels = self._render(self._shown)
        self._picks.setdefault(self._segment, []).append((shown, self._shown_pixels))
        self._moment += 1
        if self._moment == self._plan.num_moments:
            self._segment, self._moment = self._segment + 1, 0

    def _render(self, frame: Any) -> Pixels:
        picture = self._reformatter.reformat(frame, format="rgb24", threads=1)
        plane = picture.planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(picture.height, plane.line_size)
        pixels = rows[:, : 3 * picture.width].reshape(picture.height, picture.width, 3)
        self.rotation_degrees = frame.rotation
        upright = turn_upright(pixels, display_matrix(frame))
        self.size = (upright.shape[1], upright.shape[0])
        return crop_square(upright, self._frame_size)


def display_matrix(frame: Any) -> tuple[int, int, int, int] | None:
    """The four numbers a, b, c, d of the frame's display matrix that turn and mirror it, or None for an upright frame."""
    try:
        matrix = np.frombuffer(frame.side_data["DISPLAYMATRIX"], np.int32)
    except (KeyError, ValueError):  # ValueError: side data of a kind that PyAV has no name for
        return None
    return int(matrix[0]), int(matrix[1]), int(matrix[3]), int(matrix[4])


def turn_upright(pixels: Pixels, matrix: tuple[int, int, int, int] | None) -> Pixels:
    """Turn and mirror a picture as its display matrix says, to the nearest quarter turn.

    Args:
        pixels: Stored picture, uint8, shape (H, W, 3).
        matrix: a, b, c, d: the point (x, y) of the stored picture is shown at (a·x + c·y, b·x + d·y).

    Returns:
        The picture as shown, uint8, shape (H, W, 3) or (W, H, 3).
    """
    if matrix is None:
        return pixels
    a, b, c, d = matrix
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return pixels.transpose(1, 0, 2)[:: -1 if b < 0 else 1, :: -1 if c < 0 else 1]


def crop_square(pixels: Pixels, size: int) -> Pixels:
    """Resize the shorter side with an antialiased bilinear filter, then cut the central square.

    The filter runs on the square's own region only, with the same result as resizing the whole picture first.

    Args:
        pixels: RGB picture, uint8, shape (H, W, 3).
        size: Side of the square, in pixels.

    Returns:
        The square, uint8, shape (size, size, 3).
    """
    height, width = pixels.shape[:2]
    # As torchvision does it: the longer side is rounded down, the crop's corner to the nearest pixel.
    scaled_width = size if width <= height else int(size * width / height)
    scaled_height = size if height <= width else int(size * height / width)
    scale_x, scale_y = width / scaled_width, height / scaled_height
    left = round((scaled_width - size) / 2.0) * scale_x
    top = round((scaled_height - size) / 2.0) * scale_y
    right, bottom = left + size * scale_x, top + size * scale_y
    # The filter reaches one output pixel beyond the box.
    x0, y0 = max(0, math.floor(left - scale_x) - 1), max(0, math.floor(top - scale_y) - 1)
    x1, y1 = min(width, math.ceil(right + scale_x) + 1), min(height, math.ceil(bottom + scale_y) + 1)
    region = Image.fromarray(np.ascontiguousarray(pixels[y0:y1, x0:x1]))
    box = (left - x0, top - y0, min(right - x0, x1 - x0), min(bottom - y0, y1 - y0))
    return np.asarray(region.resize((size, size), Image.Resampling.BILINEAR, box=box, reducing_gap=None))


class ExtentReader:
    """Notes how far a stream reaches by its packets alone, for one that need not be decoded."""

    def __init__(self, stream: Any, *, origin_seconds: float) -> None:
        self.end_seconds = -math.inf
        self.progress_seconds = -math.inf
        self._time_base = float(stream.time_base)
        self._origin_seconds = origin_seconds

    def feed(self, packet: Any) -> None:
        """Take the next packet of the stream."""
        if packet.pts is not None:
            seconds = packet.pts * self._time_base - self._origin_seconds
            self.progress_seconds = max(self.progress_seconds, seconds)
            self.end_seconds = max(self.end_seconds, seconds + (packet.duration or 0) * self._time_base)

    def finish(self) -> None:
        """Nothing is held back."""


class SoundReader:
    """Turns one audio stream into mono sound at one rate, each sample at its own time.

    All channels are averaged with equal weight, then resampled on a grid that is fixed to time 0, so that reading from
    mid-file gives the same samples. Gaps in the timestamps stay, as zeros; where sound overlaps, the earlier wins.

    Args:
        stream: The PyAV audio stream.
        origin_seconds: Timestamp that is time 0.
        sample_rate_hz: Rate of the result.
        segment_samples: Samples of a full segment.
        first: First wanted segment.
        stop: Segment after the last wanted one; None for all that come.
        limits: The most channels.
    """

    def __init__(
        self,
        stream: Any,
        *,
        origin_seconds: float,
        sample_rate_hz: int,
        segment_samples: int,
        first: int,
        stop: int | None,
        limits: DecodeLimits,
    ) -> None:
        self.end_seconds = -math.inf
        self.start_seconds = math.inf
        self.progress_seconds = -math.inf
        self._context = stream.codec_context
        self._context.thread_count = 1
        self._time_base = stream.time_base
        self._origin_seconds = origin_seconds
        self._rate = sample_rate_hz
        self._segment_samples = segment_samples
        self._first = first
        self._stop = math.inf if stop is None else stop
        self._limits = limits
        self._segments: dict[int, tuple[Waveform, list[int]]] = {}
        self._format_key: tuple[str, str, int] | None = None
        self._to_packed: AudioResampler | None = None
        self._native_rate = 0
        self._next_index = 0  # next sample of the run, at the stream's own rate, from time 0
        self._pending: list[Waveform] = []
        self._to_rate: AudioResampler | None = None
        self._output_index = 0

    def feed(self, packet: Any) -> None:
        """Take the next packet of the stream."""
        if packet.pts is not None:
            self.progress_seconds = packet.pts * float(self._time_base) - self._origin_seconds
        self._decode(packet)

    def finish(self) -> None:
        """Take what the decoder and the resampler still hold."""
        self._decode(None)
        self._end_run()

    def samples(self, segment: int) -> tuple[Waveform, int]:
        """Sound of a segment from its start to its last sample, float32 (S,), and how many of these were decoded."""
        if segment not in self._segments:
            return np.zeros(0, np.float32), 0
        buffer, (num_decoded, length) = self._segments[segment]
        return buffer[:length], num_decoded

    def _decode(self, packet: Any) -> None:
        try:
            frames = self._context.decode(packet)
        except av.error.FFmpegError:
            return  # a damaged packet leaves a gap
        for frame in frames:
            if frame.samples:
                self._add(frame)

    def _add(self, frame: Any) -> None:
        mono = self._average_channels(frame)
        rate = frame.sample_rate
        expected = self._next_index if rate == self._native_rate else None
        index = expected
        if frame.pts is not None:
            index = round((frame.pts * float(self._time_base) - self._origin_seconds) * rate)
        if index is None:
            index = round(self._next_index * rate / self._native_rate) if self._native_rate else 0
        if expected is None or index - expected > JITTER_TOLERANCE_SECONDS * rate:
            self._start_run(index, rate)
        elif expected - index > JITTER_TOLERANCE_SECONDS * rate:
            mono = mono[expected - index :]
        self._append(mono)

    def _average_channels(self, frame: Any) -> Waveform:
        """Mean over the channels of a decoded frame, float32 (S,).

        Only AudioResampler is safe on planar frames of 8 or more channels, and only a packed frame of the same layout
        keeps every channel at equal weight.
        """
        key = (frame.format.name, frame.layout.name, frame.sample_rate)
        if key != self._format_key:
            num_channels = frame.layout.nb_channels
            if num_channels > self._limits.max_channels:
                raise TooComplex(f"sound may have {self._limits.max_channels} channels, got {num_channels}")
            self._format_key = key
            self._to_packed = AudioResampler(format="flt", layout=frame.layout.name, rate=frame.sample_rate)
        assert self._to_packed is not None
        parts = []
        for packed in self._to_packed.resample(frame):
            num_channels = packed.layout.nb_channels
            flat = np.frombuffer(packed.planes[0], np.float32, count=packed.samples * num_channels)
            parts.append(flat.reshape(-1, num_channels).mean(axis=1))  # (S, C) -> (S,)
        mono = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        return np.clip(np.nan_to_num(mono, nan=0.0), -MAX_AMPLITUDE, MAX_AMPLITUDE)

    def _start_run(self, index: int, rate: int) -> None:
        """Begin a stretch of unbroken sound on a sample of the stream that is also one of the result.

        44.1 kHz to 16 kHz: every 441st sample meets every 160th, so a run that starts at 1000 starts with 118 zeros at 882.
        """
        self._end_run()
        common = math.gcd(rate, self._rate)
        period = rate // common
        lead = index % period
        self._native_rate = rate
        self._next_index = index
        self._output_index = (index - lead) // period * (self._rate // common)
        self._to_rate = AudioResampler(format="flt", layout="mono", rate=self._rate)
        self._pending = [np.zeros(lead, np.float32)]
        self.start_seconds = min(self.start_seconds, index / rate)

    def _append(self, mono: Waveform) -> None:
        self._pending.append(mono)
        self._next_index += len(mono)
        self.end_seconds = max(self.end_seconds, self._next_index / self._native_rate)
        if sum(map(len, self._pending)) >= self._native_rate:
            self._resample()

    def _end_run(self) -> None:
        if self._to_rate is None:
            return
        self._resample()
        for output in self._to_rate.resample(None) if self._native_rate != self._rate else ():
            self._store(output.to_ndarray()[0])
        self._to_rate = None

    def _resample(self) -> None:
        mono = np.concatenate(self._pending)
        self._pending = []
        if not len(mono) or self._to_rate is None:
            return
        frame = AudioFrame.from_ndarray(mono[None], format="flt", layout="mono")
        frame.sample_rate = self._native_rate
        for output in self._to_rate.resample(frame):
            self._store(output.to_ndarray()[0])

    def _store(self, samples: Waveform) -> None:
        """Put samples of the result at their place, cut at the edges of the segments."""
        start, self._output_index = self._output_index, self._output_index + len(samples)
        for segment in range(
            start // self._segment_samples, (self._output_index - 1) // self._segment_samples + 1
        ):
            if not self._first <= segment < self._stop:
                continue
            base = segment * self._segment_samples
            low, high = max(start, base), min(self._output_index, base + self._segment_samples)
            buffer, counts = self._segments.setdefault(
                segment, (np.zeros(self._segment_samples, np.float32), [0, 0])
            )
            buffer[low - base : high - base] = samples[low - start : high - start]
            counts[0] += high - low
            counts[1] = max(counts[1], high - base)
