"""Small good files of every container, from which the bad ones are made."""

from __future__ import annotations

import functools
import io
import tempfile
from pathlib import Path

import av
import numpy as np

from tests.support.media_files import AudioTrack, VideoTrack, every, make_tone, write_media
from tests.support.paths import MEDIA

REAL = (MEDIA / "a04_robin_vorbis.ogg", MEDIA / "v12_rot90_noaudio.mov")
SOUND = {"wav": "pcm_s16le", "flac": "flac", "mp3": "libmp3lame", "ogg": "libopus", "aiff": "pcm_s16be"}
PICTURE = {
    "mp4": "libx264",
    "mkv": "libx264",
    "webm": "libvpx",
    "avi": "mpeg4",
    "ts": "libx264",
    "flv": "flv",
}


@functools.cache
def good(suffix: str, seconds: float = 1.0) -> bytes:
    """A file of this kind; sound alone in `SOUND`, picture and sound in `PICTURE`."""
    rate = {"webm": 48_000, "ogg": 48_000}.get(suffix, 44_100)
    tone = make_tone(seconds, rate, [440.0, 660.0])
    codec = SOUND.get(suffix) or {"webm": "libopus", "avi": "libmp3lame", "flv": "libmp3lame"}.get(
        suffix, "aac"
    )
    video = None
    if suffix in PICTURE:
        video = VideoTrack(times=every(seconds, 25), codec=PICTURE[suffix])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"good.{suffix}"
        write_media(path, video=video, audio=AudioTrack(samples=tone, codec=codec, rate=rate))
        return path.read_bytes()


def write_bomb(path: Path, *, width: int = 8192, height: int = 4320) -> Path:
    """A black PNG in a MOV of .1 MB: a picture of 106 MB, for which a worker takes 240 MB and keeps 112."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=1, options={"pred": "none", "compression_level": "9"})
        stream.width, stream.height, stream.pix_fmt = width, height, "rgb24"
        frame = av.VideoFrame(width, height, "rgb24")
        frame.planes[0].update(bytes(frame.planes[0].buffer_size))
        frame.pts = 0
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return path


@functools.cache
def jpeg(width: int = 64, height: int = 64) -> bytes:
    """One picture."""
    pixels = np.zeros((height, width, 3), np.uint8)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mjpeg") as container:
        stream = container.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuvj420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()
