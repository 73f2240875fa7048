"""Small media files whose every frame and sample is known, and a plain decoder to compare with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 64
GRID = 4  # a frame shows its number as 4 x 4 black or white squares
TICKS_PER_SECOND = 12800


def paint_number(number: int, side: int = SIDE) -> NDArray[np.uint8]:
    """A picture that shows a number below 65,536 in black and white squares, lowest bit first."""
    bits = np.array([(number >> bit) & 1 for bit in range(GRID * GRID)], np.uint8).reshape(GRID, GRID)
    grey = 30 + 195 * np.kron(bits, np.ones((side // GRID, side // GRID), np.uint8))
    return np.repeat(grey[:, :, None], 3, axis=2).astype(np.uint8)


def read_number(picture: NDArray[np.uint8]) -> int:
    """The number a square picture shows."""
    step = picture.shape[0] // GRID
    bits = picture[step // 2 :: step, step // 2 :: step].mean(axis=2) > 128
    return sum(1 << bit for bit, is_set in enumerate(bits.reshape(-1)) if is_set)


def make_tone(
    seconds: float, rate: int, hertz: Sequence[float], amplitude: float = 0.5
) -> NDArray[np.float32]:
    """One tone for each channel, float32 (C, S)."""
    times = np.arange(round(seconds * rate)) / rate
    return (amplitude * np.stack([np.sin(2 * np.pi * f * times) for f in hertz])).astype(np.float32)


def measure_tone(samples: NDArray[np.float32], rate: int, hertz: float) -> float:
    """Amplitude of one frequency."""
    phases = np.exp(-2j * np.pi * hertz * np.arange(len(samples)) / rate)
    window = np.hanning(len(samples))
    return float(2 * abs((samples * window * phases).sum()) / window.sum())


@dataclass(frozen=True, kw_only=True)
class VideoTrack:
    """Frames to write: numbered pictures at the given times."""

    times: Sequence[float]
    codec: str = "libx264"
    pixel_format: str = "yuv420p"
    gop: int = 25
    side: int = SIDE
    options: dict[str, str] | None = None
    paint: Callable[[int], NDArray[np.uint8]] | None = None


@dataclass(frozen=True, kw_only=True)
class AudioTrack:
    """Samples to write, float32 (C, S), from the given time on; a gap is made by leaving out blocks."""

    samples: NDArray[np.float32]
    rate: int = 48000
    layout: str = "stereo"
    codec: str = "aac"
    start: float = 0.0
    left_out: tuple[float, float] = (0.0, 0.0)


def every(seconds: float, frames_per_second: float, start: float = 0.0) -> list[float]:
    """Times of frames at a constant rate."""
    return [start + i / frames_per_second for i in range(round(seconds * frames_per_second))]


def write_media(
    path: Path,
    *,
    video: VideoTrack | None = None,
    audio: AudioTrack | None = None,
    container_format: str | None = None,
    options: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Write one file with the given tracks, interleaved by time."""
    with av.open(str(path), "w", format=container_format, options=options or {}) as container:
        container.metadata.update(metadata or {})
        streams = [
            make(container, track)
            for make, track in ((_add_video, video), (_add_audio, audio))
            if track is not None
        ]
        packets = [packet for encode in streams for packet in encode()]
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def _add_video(container: Any, track: VideoTrack) -> Callable[[], list[Any]]:
    stream = container.add_stream(track.codec, rate=25, options=track.options or {})
    stream.width = stream.height = track.side
    stream.pix_fmt = track.pixel_format
    stream.codec_context.gop_size = track.gop
    # MPEG-2 and MPEG-4 know no finer time than the frame.
    tick = Fraction(1, 25) if track.codec.startswith("mpeg") else Fraction(1, TICKS_PER_SECOND)
    stream.codec_context.time_base = tick

    def encode() -> list[Any]:
        packets = []
        for number, seconds in enumerate(track.times):
            pixels = track.paint(number) if track.paint else paint_number(number, track.side)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.time_base = tick
            frame.pts = round(seconds / tick)
            packets += stream.encode(frame)
        return packets + stream.encode(None)

    return encode


def _add_audio(container: Any, track: AudioTrack) -> Callable[[], list[Any]]:
    stream = container.add_stream(track.codec, rate=track.rate, layout=track.layout)
    if track.codec.startswith("wma"):  # has no bit rate of its own
        stream.bit_rate = 128_000

    def encode() -> list[Any]:
        context = stream.codec_context
        size = context.frame_size or 1024
        resampler = av.AudioResampler(format=context.format.name, layout=track.layout, rate=track.rate)
        packets = []
        for first in range(0, track.samples.shape[1], size):
            block = np.ascontiguousarray(track.samples[:, first : first + size].T)
            if track.left_out[0] <= first / track.rate < track.left_out[1]:
                continue
            frame = av.AudioFrame(format="flt", layout=track.layout, samples=len(block))
            frame.planes[0].update(block)
            frame.rate = track.rate
            frame.time_base = Fraction(1, track.rate)
            frame.pts = round(track.start * track.rate) + first
            for converted in resampler.resample(frame):
                packets += stream.encode(converted)
        return packets + stream.encode(None)

    return encode


def write_quiet_start(path: Path) -> Path:
    """2 s with a moving picture, the first of them without sound."""
    sound = make_tone(2.0, 48_000, (440.0, 440.0))
    sound[:, :48_480] = 0
    return write_media(
        path,
        video=VideoTrack(times=every(2.0, 25)),
        audio=AudioTrack(samples=sound, codec="pcm_s16le"),
    )


@dataclass(frozen=True, kw_only=True)
class PlainMedia:
    """A file decoded the plain way: the time of every frame, and the mean of the channels at the stored rate."""

    times: NDArray[np.float64]
    audio_start: float
    samples: NDArray[np.float32]
    rate: int
    end: float
    video_index: int | None


PLAIN_OPTIONS = {"advanced_editlist": "0"}


def decode_plainly(path: Path) -> PlainMedia:
    """Decode everything with PyAV and no shortcut; only for sound of fewer than 8 channels."""
    with av.open(str(path), options=PLAIN_OPTIONS) as container:
        best = {kind: container.streams.best(kind) for kind in ("video", "audio")}
        kept = {
            kind: stream.index
            for kind, stream in best.items()
            if stream is not None and not stream.disposition & stream.disposition.attached_pic
        }
        chosen = [container.streams[index] for index in kept.values()]
        starts = [
            float(stream.start_time * stream.time_base) for stream in chosen if stream.start_time is not None
        ]
        origin = min(starts, default=0.0)
    times: list[float] = []
    blocks: list[Any] = []
    audio_start, rate, end = 0.0, 0, 0.0
    for kind, index in kept.items():
        with av.open(str(path), options=PLAIN_OPTIONS) as container:
            for frame in container.decode(container.streams[index]):
                seconds = float(frame.pts * frame.time_base) - origin
                end = max(end, seconds + float(frame.duration * frame.time_base))
                if kind == "video":
                    times.append(seconds)
                    continue
                audio_start, rate = (audio_start if blocks else seconds), frame.sample_rate
                blocks.append(_average_in_numpy(frame))
    return PlainMedia(
        times=np.array(times),
        audio_start=audio_start,
        samples=np.concatenate(blocks) if blocks else np.zeros(0, np.float32),
        rate=rate,
        end=end,
        video_index=kept.get("video"),
    )


def decode_frames_plainly(path: Path, plain: PlainMedia, picks: set[int]) -> dict[int, NDArray[np.uint8]]:
    """Some frames by their number, each decoded in order after all before it, turned upright."""
    found: dict[int, NDArray[np.uint8]] = {}
    with av.open(str(path), options=PLAIN_OPTIONS) as container:
        for number, frame in enumerate(container.decode(container.streams[plain.video_index])):
            if number in picks:
                pixels = frame.to_ndarray(format="rgb24")
                found[number] = np.ascontiguousarray(np.rot90(pixels, frame.rotation // 90))
    return found


def _average_in_numpy(frame: Any) -> NDArray[np.float32]:
    values = frame.to_ndarray().astype(np.float64)
    kind = frame.format.name.rstrip("p")
    if kind == "u8":
        values -= 128
    scale = {"u8": 1 << 7, "s16": 1 << 15, "s32": 1 << 31, "flt": 1, "dbl": 1}[kind]
    if not frame.format.is_planar:
        values = values.reshape(-1, frame.layout.nb_channels).T
    return (values.mean(axis=0) / scale).astype(np.float32)


def resample_plainly(samples: NDArray[np.float32], rate: int, to_rate: int = 16000) -> NDArray[np.float32]:
    """Resample in one go."""
    if rate == to_rate:
        return samples
    resampler = av.AudioResampler(format="flt", layout="mono", rate=to_rate)
    frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
    frame.rate = rate
    parts = [part.to_ndarray()[0] for part in (*resampler.resample(frame), *resampler.resample(None))]
    return np.concatenate(parts)


def crop_plainly(pixels: NDArray[np.uint8], size: int = 224) -> NDArray[np.uint8]:
    """Resize the whole picture, then cut the middle: torchvision's Resize and CenterCrop in Pillow's words."""
    height, width = pixels.shape[:2]
    short = min(height, width)
    scaled = (int(size * width / short), int(size * height / short))
    image = Image.fromarray(pixels).resize(scaled, Image.Resampling.BILINEAR)
    left, top = round((scaled[0] - size) / 2), round((scaled[1] - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))
