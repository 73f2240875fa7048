"""Sound of a stretch of a file as its decoder gives it: all channels, at their own rate and depth."""

from __future__ import annotations

from typing import Any

import av.error
import numpy as np
from numpy.typing import NDArray

from models.media.opening import Media
from models.media.reading import iterate_packets
from models.media.stretch import Stretch, check_size, open_early, time_of
from models.media.unreadable import BrokenMedia, TooComplex

MAX_JITTER_SECONDS = 2e-3
"""Containers that round times to a millisecond leave such gaps between blocks of sound that has none."""

Samples = NDArray[Any]


def read_sound(stretch: Stretch) -> tuple[Samples, int]:
    """The samples of all tracks that are heard together, shape (S, C), and their rate in Hz."""
    for media, is_start in open_early(stretch, is_picture=False):
        tracks = [_Track(media, stream, stretch) for stream in media.sounds]
        by_index = {track.stream.index: track for track in tracks}
        for packet in iterate_packets(media, [*media.sounds]):
            by_index[packet.stream.index].feed(packet)
            if all(track.is_full for track in tracks):
                break
        for track in tracks:
            track.feed(None)
        parts = [track for track in tracks if track.samples is not None and track.num_filled]
        if is_start or all(track.began_early for track in parts):
            parts = [track for track in parts if track.rate == parts[0].rate]
            if not parts:
                raise BrokenMedia("no sound of the file decodes between these times")
            length = max(track.num_filled for track in parts)
            found = [track.samples[:length] for track in parts if track.samples is not None]
            same = [samples for samples in found if samples.dtype == found[0].dtype]
            return (found[0] if len(found) == 1 else np.concatenate(same, axis=1)), parts[0].rate
    raise BrokenMedia("the file cannot be read from its start")


def to_24_bits(samples: Samples) -> Samples:
    """What a lossy decoder gives, as integers of 24 bits in the upper bits of 32."""
    scaled: Samples = (samples * 2.0**23).round().clip(-(2**23), 2**23 - 1).astype(np.int32) << 8
    return scaled


def to_float(samples: Samples) -> NDArray[np.float32]:
    """Samples as a fraction of full scale."""
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    offset = 128 if samples.dtype == np.uint8 else 0
    return ((samples.astype(np.float32) - offset) / 2.0 ** (8 * samples.dtype.itemsize - 1)).astype(
        np.float32
    )


class _Track:
    """Sound of one stream between two times, as the decoder gives it."""

    def __init__(self, media: Media, stream: Any, stretch: Stretch) -> None:
        self.stream = stream
        self.samples: Samples | None = None
        self.rate = 0
        self.num_filled = 0
        self.is_full = False
        self.began_early = False
        self._media, self._stretch = media, stretch
        self._next: int | None = None  # where the next block begins if there is no gap

    def feed(self, packet: Any) -> None:
        """Take the next packet, or None at the end."""
        if self.is_full:
            return
        try:
            for frame in self.stream.codec_context.decode(packet):
                self._add(frame)
        except MemoryError as error:
            raise TooComplex("the sound needs too much memory") from error
        except av.error.FFmpegError:
            return  # what is damaged leaves a gap

    def _add(self, frame: Any) -> None:
        found = frame.to_ndarray()
        num_channels = frame.layout.nb_channels
        block = found.T if frame.format.is_planar else found.reshape(-1, num_channels)
        if self.samples is None:
            self.rate = frame.sample_rate
            first, stop = (round(time * self.rate) for time in (self._stretch.start, self._stretch.end))
            self._stretch.limits.check_sound(num_channels, self.rate)
            check_size((stop - first) * num_channels * block.itemsize)
            silence = 128 if block.dtype == np.uint8 else 0
            self.samples = np.full((stop - first, num_channels), silence, block.dtype)
        if (frame.sample_rate, num_channels, block.dtype) != (
            self.rate,
            self.samples.shape[1],
            self.samples.dtype,
        ):
            return  # the file changes to another form: silence
        place = self._next or 0
        if frame.pts is not None:
            time = time_of(self._media, self.stream, frame.pts)
            place = round(time * self.rate) - round(self._stretch.start * self.rate)
        if self._next is not None and abs(place - self._next) <= MAX_JITTER_SECONDS * self.rate:
            place = self._next
        self._next = place + len(block)
        self.began_early = self.began_early or place <= 0
        self.is_full = self._next >= len(self.samples)
        block, place = block[max(0, -place) :], max(0, place)
        block = block[: max(0, len(self.samples) - place)]
        if len(block):
            self.samples[place : place + len(block)] = block
            self.num_filled = max(self.num_filled, place + len(block))
