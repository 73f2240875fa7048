"""From the packets of an audio stream to mono sound at one rate, each sample at its own time.

    sound = SoundReader(stream, origin_seconds=0.0, plan=plan, limits=limits)
    for packet in packets:
        sound.feed(packet)
    sound.finish()
    samples, num_decoded = sound.samples(0)   # float32 (S,) of segment 0

`models.media.reading` feeds it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import av.error
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from models.media.edits import EVERYTHING, Spans
from models.media.limits import DecodeLimits
from models.media.timeline import MomentPlan
from models.media.unreadable import TooComplex

JITTER_TOLERANCE_SECONDS = 0.04
"""Sound whose timestamp is off by less than this follows on; beyond it there is a gap or an overlap."""
ROUNDING_SECONDS = 0.001
"""How coarse the timestamps of a container may be: Matroska, FLV and ASF count milliseconds."""
MAX_AMPLITUDE = 1000.0
"""Float sound is clipped here, 60 dB over full scale: a broken file must not overflow what comes after."""
WARM_UP_SECONDS = 1.0
"""Sound decoded and dropped before a chunk, until the decoder does not remember where it started."""

CANCELLED_SHARE = 0.01
"""Channels cancel if their mean has less than this share of the energy that unrelated channels would have."""

Waveform = NDArray[np.float32]


class MixedSound:
    """The sound of several tracks, heard together: the mean of those that are not silent in a segment.

    Args:
        readers: One for each track; at least one.
    """

    def __init__(self, readers: Sequence[SoundReader]) -> None:
        self._readers = readers

    @property
    def start_seconds(self) -> float:
        """When the first sample that decoded is heard."""
        return min(reader.start_seconds for reader in self._readers)

    @property
    def is_out_of_phase(self) -> bool:
        """Whether the channels of a track cancel each other in most of what was decoded."""
        return any(reader.is_out_of_phase for reader in self._readers)

    def samples(self, segment: int) -> tuple[Waveform, int]:
        """Sound of a segment; see `SoundReader.samples`."""
        tracks = [reader.samples(segment) for reader in self._readers]
        loud = [track for track in tracks if track[0].any()] or tracks
        if len(loud) == 1:
            return loud[0]
        mean = np.zeros(max(len(samples) for samples, _ in loud), np.float32)
        for samples, _ in loud:
            mean[: len(samples)] += samples / np.float32(len(loud))
        return mean, max(num_decoded for _, num_decoded in loud)


class SoundReader:
    """Turns one audio stream into mono sound at one rate.

    All channels are averaged with equal weight, then resampled on a grid that is fixed to time 0, so that reading
    from mid-file gives the same samples. Gaps in the timestamps stay, as zeros; where sound overlaps, the earlier
    wins. A damaged packet leaves a gap.

    Args:
        stream: The PyAV audio stream.
        origin_seconds: Timestamp that is time 0.
        plan: Which segments are wanted.
        limits: The most channels.
        shown: When the stream is heard; what decodes at other times was cut away.
        counts_all: Whether all sound from the start is decoded and counted: the clock drifts, or the decoder remembers.
    """

    def __init__(
        self,
        stream: Any,
        *,
        origin_seconds: float,
        plan: MomentPlan,
        limits: DecodeLimits,
        shown: Spans = EVERYTHING,
        counts_all: bool = False,
    ) -> None:
        self.start_seconds = math.inf  # of the first sample that decoded
        self.end_seconds = -math.inf  # of the last one
        self.progress_seconds = -math.inf  # how far the file was read
        self._context = stream.codec_context
        self._context.thread_count = 1
        self._time_base: Fraction = stream.time_base
        self._origin_seconds = origin_seconds
        self._plan = plan
        self._shown = shown
        self._decodes_all = plan.first == 0 or counts_all
        self._average = _ChannelAverage(limits)
        self._run: _Run | None = None
        self._is_finished = False
        self._padding_seconds = 0.0  # of the newest frame: AAC fills up the last one
        self._segments: dict[int, _Buffer] = {}

    @property
    def is_out_of_phase(self) -> bool:
        """Whether the channels cancel each other in most of what was decoded."""
        return self._average.num_cancelled > self._average.num_samples / 2

    def feed(self, packet: Any) -> None:
        """Take the next packet of the stream."""
        if packet.pts is None:
            self._decode(packet)
            return
        start, end = self._seconds(packet.pts), self._seconds(packet.pts + (packet.duration or 0))
        self.progress_seconds = max(self.progress_seconds, start)
        if start > self._plan.stop_seconds + self._plan.spec.min_segment_seconds:
            self.finish()
            self.end_seconds = max(self.end_seconds, end)
        elif self._decodes_all or end >= self._plan.start_seconds - WARM_UP_SECONDS:
            self._decode(packet)

    def finish(self) -> None:
        """Take what the decoder and the resampler still hold. Safe to call twice."""
        if not self._is_finished:
            self._is_finished = True
            self._decode(None)
            self._end_run()
            self.end_seconds -= self._padding_seconds

    def samples(self, segment: int) -> tuple[Waveform, int]:
        """Sound of a segment.

        Args:
            segment: Which segment, from 0.

        Returns:
            The samples from the segment's start to its last decoded one, float32, shape (S,), and how many of them
            were decoded: the others are the zeros of gaps.
        """
        buffer = self._segments.get(segment)
        return (np.zeros(0, np.float32), 0) if buffer is None else (buffer.heard(), buffer.num_decoded)

    def _seconds(self, pts: int) -> float:
        return pts * self._time_base.numerator / self._time_base.denominator - self._origin_seconds

    def _decode(self, packet: Any) -> None:
        try:
            for frame in self._context.decode(packet):
                if frame.samples and frame.sample_rate:
                    self._add(self._average(frame), frame)
        except MemoryError as error:
            raise TooComplex("the sound needs too much memory") from error
        except av.error.FFmpegError:
            return  # what is damaged leaves a gap

    def _add(self, mono: Waveform, frame: Any) -> None:
        rate = frame.sample_rate
        index = None if frame.pts is None else self._seconds(frame.pts) * rate
        run = self._run
        if run is None or run.rate != rate:
            if index is None:
                index = max(0.0, self.end_seconds) * rate
            run = self._start_run(rate)
        elif index is not None:
            late = index - run.next_index
            if late > JITTER_TOLERANCE_SECONDS * rate:
                run = self._start_run(rate)
            elif late < -JITTER_TOLERANCE_SECONDS * rate:
                mono, index = mono[round(-late) :], None
        run.append(mono, index)
        self.start_seconds = min(self.start_seconds, run.start_index / rate)
        self.end_seconds = max(self.end_seconds, run.next_index / rate)
        padding = frame.samples / rate - float((frame.duration or 0) * self._time_base)
        is_padded = frame.duration and padding > ROUNDING_SECONDS
        self._padding_seconds = padding if is_padded else 0.0

    def _start_run(self, rate: int) -> _Run:
        self._end_run()
        self._run = _Run(rate, self._plan.spec.sample_rate_hz, self._store)
        return self._run

    def _end_run(self) -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None

    def _store(self, start: int, samples: Waveform) -> None:
        rate, stop = self._plan.spec.sample_rate_hz, start + len(samples)
        for begin, end in self._shown:
            low, high = max(start, round(begin * rate)), round(min(stop, end * rate))
            if low < high:
                self._keep(low, samples[low - start : high - start])

    def _keep(self, start: int, samples: Waveform) -> None:
        """Put samples of the result at their place, cut at the edges of the segments."""
        size = self._plan.spec.segment_samples
        stop = start + len(samples)
        for segment in range(start // size, (stop - 1) // size + 1):
            if self._plan.has(segment):
                base = segment * size
                low, high = max(start, base), min(stop, base + size)
                buffer = self._segments.setdefault(segment, _Buffer(size))
                buffer.write(low - base, samples[low - start : high - start])


class _Buffer:
    """The sound of one segment while it is put together."""

    def __init__(self, size: int) -> None:
        self._samples = np.zeros(size, np.float32)
        self._length = 0
        self.num_decoded = 0

    def write(self, start: int, samples: Waveform) -> None:
        self._samples[start : start + len(samples)] = samples
        self._length = max(self._length, start + len(samples))
        self.num_decoded += len(samples)

    def heard(self) -> Waveform:
        return self._samples[: self._length]


class _ChannelAverage:
    """Mean over the channels of decoded frames: (C, S) in any format → float32 (S,).

    Where channels in opposite phase cancel each other, the loudest one is taken instead.

    Only AudioResampler is safe on planar frames of 8 or more channels, and only a packed frame of the same layout
    keeps every channel: its own way to mono weights the channels and leaves out the bass of 5.1.
    """

    def __init__(self, limits: DecodeLimits) -> None:
        self._limits = limits
        self._key: tuple[str, str, int] | None = None
        self._resampler = AudioResampler()
        self._weights = np.ones(1, np.float32)
        self.num_samples = self.num_cancelled = 0

    def __call__(self, frame: Any) -> Waveform:
        key = (frame.format.name, frame.layout.name, frame.sample_rate)
        if key != self._key:
            self._limits.check_sound(frame.layout.nb_channels, frame.sample_rate)
            self._key = key
            self._resampler = AudioResampler(format="flt", layout=frame.layout.name, rate=frame.sample_rate)
            self._weights = np.full(frame.layout.nb_channels, 1 / frame.layout.nb_channels, np.float32)
        parts = [self._weigh(packed) for packed in self._resampler.resample(frame)]
        return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, np.float32), *parts])

    def _weigh(self, packed: Any) -> Waveform:
        num_channels = len(self._weights)
        flat = np.frombuffer(packed.planes[0], np.float32, count=packed.samples * num_channels)
        channels = flat.reshape(-1, num_channels)
        mono = np.asarray(channels @ self._weights)  # (S, C) -> (S,)
        self.num_samples += len(mono)
        if num_channels > 1:
            energies = np.einsum("sc,sc->c", channels, channels)
            if mono @ mono < CANCELLED_SHARE * energies.sum() / num_channels**2:
                self.num_cancelled += len(mono)
                return channels[:, int(energies.argmax())].copy()
        return mono


class _Run:
    """A stretch of unbroken sound at one rate, on its way to the rate of the result.

    Its place is settled after a second: rounded timestamps put each frame a little early or late, and the middle of
    the two extremes is right to about a sample.

    Args:
        rate: Sample rate of the stream.
        output_rate: Sample rate of the result.
        store: Takes the index of the first sample and the samples of the result.
    """

    def __init__(self, rate: int, output_rate: int, store: Callable[[int, Waveform], None]) -> None:
        self.rate = rate
        self._output_rate = output_rate
        self._store = store
        self._resampler = AudioResampler(format="flt", layout="mono", rate=output_rate)
        self._starts: list[float] = []  # the first sample's index by each timestamp
        self._start: int | None = None
        self._num_samples = 0
        self._num_pending = 0
        self._pending: list[Waveform] = []
        self._output_index = 0
        self._first_output = 0

    @property
    def start_index(self) -> float:
        """First sample of the run, counted from time 0 at the stream's own rate."""
        return self._starts[0] if self._start is None else self._start

    @property
    def next_index(self) -> float:
        """The sample after the last."""
        return self.start_index + self._num_samples

    def append(self, mono: Waveform, index: float | None) -> None:
        """Add sound; `index` is where its timestamp puts it."""
        if self._start is None and index is not None:
            self._starts.append(index - self._num_samples)
        self._pending.append(mono)
        self._num_samples += len(mono)
        self._num_pending += len(mono)
        if self._num_pending >= self.rate:
            self._resample()

    def finish(self) -> None:
        """Resample what is left, to the last sample."""
        self._resample()
        if self.rate != self._output_rate:
            self._emit(self._resampler.resample(None))

    def _settle(self) -> None:
        # The first frame may be cut by the codec's delay, and its timestamp rounded again.
        starts = sorted(self._starts[1:] or self._starts)
        middle = starts[len(starts) // 2]
        near = [start for start in starts if abs(start - middle) <= ROUNDING_SECONDS * self.rate]
        self._start = round((near[0] + near[-1]) / 2)
        # Begin on a sample that is also one of the result. 44.1 kHz to 16 kHz: every 441st sample meets every 160th,
        # so a run that starts at 1000 begins with 118 zeros at 882.
        common = math.gcd(self.rate, self._output_rate)
        period = self.rate // common
        lead = self._start % period
        self._output_index = (self._start - lead) // period * (self._output_rate // common)
        self._first_output = -(-self._start * self._output_rate // self.rate)
        self._pending.insert(0, np.zeros(lead, np.float32))

    def _resample(self) -> None:
        if self._start is None:
            self._settle()
        mono = np.concatenate(self._pending) if self._pending else np.zeros(0, np.float32)
        self._pending, self._num_pending = [], 0
        if len(mono):
            mono = np.nan_to_num(mono, nan=0.0).clip(-MAX_AMPLITUDE, MAX_AMPLITUDE)
            frame = AudioFrame.from_ndarray(mono[None], format="flt", layout="mono")
            frame.sample_rate = self.rate
            self._emit(self._resampler.resample(frame))

    def _emit(self, frames: list[AudioFrame]) -> None:
        for frame in frames:
            samples: Any = frame.to_ndarray()[0]
            lead = max(0, self._first_output - self._output_index)
            if lead < len(samples):
                self._store(self._output_index + lead, samples[lead:])
            self._output_index += len(samples)
