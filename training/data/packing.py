"""A segment as the files of a WebDataset sample: 16 JPEG frames, the sound as FLAC, and facts as JSON.

    00000042.00.jpg … 00000042.15.jpg    frame of each moment, 224 × 224
    00000042.flac                        the segment's sound, 16 kHz mono
    00000042.json                        {"path", "labels", "start_seconds", "end_seconds", "num_samples", "num_heard",
                                          "gain"}

A sample of the FLAC is a whole number of steps of 2⁻²³ (24 bits) or 2⁻¹⁵ (16 bits) of full scale. Sound over full scale
is turned down to fit; `gain` times what is in the FLAC is the sound. On real files the log-mel moves by 3e-6 on average
with 24 bits (16 bits: 8e-4), and by 2e-3 at most (0.4, in silence); 16 bits save a quarter of a segment's bytes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import av
import av.error
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.media.clip import Clip

SampleBits = Literal[16, 24]

SAMPLE_FORMATS: dict[SampleBits, tuple[str, type[np.signedinteger[Any]], int]] = {
    16: ("s16", np.int16, 0),
    24: ("s32", np.int32, 8),  # the encoder takes the upper 24 of 32 bits
}
"""FFmpeg's name of the samples, their type, and how far they are shifted up in it."""


class BrokenSample(ValueError):
    """A member of a sample is damaged."""


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How a segment is packed.

    Attributes:
        jpeg_quality: 1 to 95; colour has half the resolution of brightness, as in the video it is from.
        sample_bits: Bits of a sample of sound.
        sample_rate_hz: Rate of the sound.
    """

    jpeg_quality: int = 95
    sample_bits: SampleBits = 24
    sample_rate_hz: int = 16_000

    def __post_init__(self) -> None:
        if not 1 <= self.jpeg_quality <= 95:
            raise ValueError(f"jpeg_quality must be 1 to 95, got {self.jpeg_quality}")
        if self.sample_bits not in SAMPLE_FORMATS:
            raise ValueError(f"sample_bits must be 16 or 24, got {self.sample_bits}")


@dataclass(frozen=True, kw_only=True)
class PackedSegment:
    """A segment as bytes.

    Attributes:
        start_seconds: Start in its file.
        members: The files of the sample without their key, by the ending of their names; the JSON is not among them.
        facts: What the JSON says of the segment itself.
    """

    start_seconds: float
    members: Mapping[str, bytes]
    facts: Mapping[str, Any]


def pack_segment(clip: Clip, packing: Packing, *, max_samples: int) -> PackedSegment:
    """Pack a segment.

    Args:
        clip: With frames and samples.
        packing: How.
        max_samples: Samples of a full segment.

    Returns:
        Its bytes.
    """
    assert clip.frames is not None
    assert clip.samples is not None
    samples = clip.samples[:max_samples]
    gain = max(1.0, float(np.abs(samples).max()))
    members = {
        frame_name(moment): encode_jpeg(frame, packing.jpeg_quality)
        for moment, frame in enumerate(clip.frames)
    }
    members["flac"] = encode_flac(samples / gain, packing)
    facts = {
        "start_seconds": clip.start_seconds,
        "end_seconds": clip.end_seconds,
        "num_samples": len(samples),
        "num_heard": min(clip.num_heard, len(samples)),
        "gain": gain,
    }
    return PackedSegment(start_seconds=clip.start_seconds, members=members, facts=facts)


def frame_name(moment: int) -> str:
    """Name the frame of a moment.

    Args:
        moment: Which one, from 0.

    Returns:
        The ending of its file name.
    """
    return f"{moment:02d}.jpg"


def member_names(num_moments: int) -> list[str]:
    """Name the members of a sample in the order of their bytes in the archive.

    Args:
        num_moments: Frames of a segment.

    Returns:
        Endings of file names, sorted.
    """
    return sorted([*(frame_name(moment) for moment in range(num_moments)), "flac", "json"])


def encode_jpeg(frame: NDArray[np.uint8], quality: int) -> bytes:
    """Encode a frame.

    Args:
        frame: RGB, uint8, shape (H, W, 3).
        quality: 1 to 95.

    Returns:
        A JPEG file.
    """
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def decode_jpeg(data: bytes) -> NDArray[np.uint8]:
    """Decode a frame.

    Args:
        data: A JPEG file.

    Returns:
        RGB, uint8, shape (H, W, 3).

    Raises:
        BrokenSample: If it is none, or damaged.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError) as exc:
        raise BrokenSample(f"a frame does not decode: {exc}") from exc


def encode_flac(samples: NDArray[np.float32], packing: Packing) -> bytes:
    """Encode mono sound.

    Args:
        samples: float32, shape (S,), in [-1, 1]; +1 itself becomes the highest step below it.
        packing: Bits of a sample.

    Returns:
        A FLAC file.
    """
    name, kind, shift = SAMPLE_FORMATS[packing.sample_bits]
    scale = 2 ** (packing.sample_bits - 1)
    steps = np.clip(np.rint(samples.astype(np.float64) * scale), -scale, scale - 1).astype(kind) << shift
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="flac") as container:
        stream: Any = container.add_stream("flac", rate=packing.sample_rate_hz)
        stream.layout, stream.format = "mono", name
        frame = av.AudioFrame.from_ndarray(steps[np.newaxis], format=name, layout="mono")
        frame.sample_rate, frame.pts = packing.sample_rate_hz, 0
        for part in (frame, None):
            container.mux(stream.encode(part))
    return buffer.getvalue()


def decode_flac(data: bytes) -> NDArray[np.float32]:
    """Decode mono sound.

    Args:
        data: A FLAC file.

    Returns:
        float32, shape (S,), in [-1, 1).

    Raises:
        BrokenSample: If it is none, is not mono, or is damaged.
    """
    try:
        with av.open(io.BytesIO(data), "r", format="flac") as container:
            (stream,) = container.streams.audio
            if stream.codec_context.layout.nb_channels != 1:
                raise BrokenSample(f"the sound must be mono, it is {stream.codec_context.layout.name}")
            parts = [frame.to_ndarray()[0] for frame in container.decode(stream)]
    except (av.error.FFmpegError, ValueError) as exc:
        raise BrokenSample(f"the sound does not decode: {exc}") from exc
    if not parts:
        return np.zeros(0, np.float32)
    steps = np.concatenate(parts)
    return steps.astype(np.float32) / np.float32(np.iinfo(steps.dtype).max + 1)
