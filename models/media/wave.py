"""Sound as a Broadcast Wave file: EBU Tech 3285 (`bext`), and the cue points of Microsoft's RIFF specification."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

PCM, FLOAT = 1, 3  # format tags
BEXT_BYTES = 602


def write_wave(
    samples: NDArray[Any],
    rate_hz: int,
    *,
    time_reference: int,
    description: str = "",
    cues: Mapping[int, str] | None = None,
) -> bytes:
    """Write a WAV file.

    Args:
        samples: Shape (S, C); uint8, int16, int32, float32 or float64. int32 becomes 24 bits where its lowest 8 are 0.
        rate_hz: Sample rate.
        time_reference: When the sound begins, in samples since midnight.
        description: What the file says of itself; at most 256 ASCII characters are kept.
        cues: Names of markers by their sample.

    Returns:
        The file.
    """
    num_channels = samples.shape[1]
    little = np.ascontiguousarray(samples, samples.dtype.newbyteorder("<"))
    bits = 8 * samples.dtype.itemsize
    if samples.dtype == np.int32 and not (samples & 0xFF).any():
        bits = 24
        data = little.view(np.uint8).reshape(-1, 4)[:, 1:].tobytes()
    else:
        data = little.tobytes()
    block = num_channels * bits // 8
    tag = FLOAT if samples.dtype.kind == "f" else PCM
    text = description.encode("ascii", "replace")[:256]
    bext = struct.pack("<256s32s32s10s8sQH", text, b"Foley", b"", b"", b"", time_reference, 1)
    chunks = _chunk(b"bext", bext.ljust(BEXT_BYTES, b"\0"))
    chunks += _chunk(
        b"fmt ", struct.pack("<HHIIHH", tag, num_channels, rate_hz, rate_hz * block, block, bits)
    )
    chunks += _chunk(b"data", data)
    if cues:
        points, labels = b"", b"adtl"
        for number, (sample, name) in enumerate(sorted(cues.items()), start=1):
            points += struct.pack("<II4sIII", number, sample, b"data", 0, 0, sample)
            labels += _chunk(b"labl", struct.pack("<I", number) + name.encode() + b"\0")
        chunks += _chunk(b"cue ", struct.pack("<I", len(cues)) + points) + _chunk(b"LIST", labels)
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
