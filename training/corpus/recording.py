"""Write frames and samples as a media file: H.264 and AAC in mp4.

write_media(Path("clip.mp4"), frames=frames, samples=samples)
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

FRAME_RATE = 8
"""Frames a second. Moments lie at multiples of 5/8 s: 8 is the lowest rate with a frame at each of them."""
SAMPLE_RATE_HZ = 44100
AUDIO_BIT_RATE = 96_000
PICTURE_OPTIONS = {"preset": "veryfast", "crf": "23", "threads": "1", "x264-params": "mbtree=0"}
"""The same frames must give the same bytes. One thread: the number of cores does not matter. No macroblock
tree: its look-ahead reads memory it never wrote (x264 of PyAV 18: one clip, three different files)."""
SOUND_OPTIONS = {"aac_coder": "fast"}


def write_media(path: Path, *, frames: NDArray[np.uint8] | None, samples: NDArray[np.float32] | None) -> None:
    """Write one mp4 file with H.264 and AAC, playable from its first bytes.

    Args:
        path: File to write.
        frames: RGB frames at FRAME_RATE, uint8, shape (T, H, W, 3) with even sides, or None for no picture.
        samples: Mono samples at SAMPLE_RATE_HZ in [-1, 1], float32, shape (S,), or None for no sound.
    """
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with av.open(str(path), "w", format="mp4", options=options) as container:
        picture = sound = None
        if frames is not None:
            picture = container.add_stream("libx264", rate=FRAME_RATE, options=PICTURE_OPTIONS)
            picture.height, picture.width = frames.shape[1:3]
            picture.pix_fmt = "yuv420p"
        if samples is not None:
            sound = container.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono", options=SOUND_OPTIONS)
            sound.bit_rate = AUDIO_BIT_RATE
        if picture is not None and frames is not None:
            for number, pixels in enumerate(frames):
                image = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                image.pts, image.time_base = number, Fraction(1, FRAME_RATE)
                container.mux(picture.encode(image))
            container.mux(picture.encode())
        if sound is not None and samples is not None:
            block = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")  # (1, S)
            block.sample_rate, block.pts = SAMPLE_RATE_HZ, 0
            block.time_base = Fraction(1, SAMPLE_RATE_HZ)
            container.mux(sound.encode(block))
            container.mux(sound.encode())
