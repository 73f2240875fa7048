"""A stretch of a file, encoded again: H.264 and AAC in MP4, from the very frame."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator
from contextlib import suppress
from fractions import Fraction
from typing import Any

import av
import av.error
import numpy as np
from av.video.frame import PictureType

from models.media.edits import EVERYTHING
from models.media.opening import Media, MediaInfo
from models.media.reading import iterate_packets
from models.media.stretch import Stretch, check_size, open_early, time_of
from models.media.stretch_sound import Samples, read_sound, to_float
from models.media.unreadable import BrokenMedia

TICK = Fraction(1, 60_000)
SOUND_RATE_HZ = 48_000
BLOCK_SAMPLES = 1024


def encode_stretch(stretch: Stretch, *, has_sound: bool) -> tuple[bytes, float]:
    """H.264 (MPEG-4 where this FFmpeg has no encoder for it) and AAC in MP4, and when the last picture ends."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        for frames, info in _read_frames(stretch):
            first = next(frames, None)
            if first is None:
                continue
            picture = _add_picture(output, first[1], info.frame_rate)
            sound = output.add_stream("aac", rate=SOUND_RATE_HZ, layout="stereo") if has_sound else None
            end = _encode_frames(output, picture, itertools.chain([first], frames), stretch)
            break
        else:
            raise BrokenMedia("no picture of the file decodes between these times")
        if sound is not None:
            with suppress(BrokenMedia):  # none between these times
                _encode_sound(output, sound, *read_sound(stretch))
    return buffer.getvalue(), end


def _add_picture(output: Any, frame: Any, frame_rate: float | None) -> Any:
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    options = {"preset": "veryfast", "crf": "18"} if codec == "libx264" else {"q:v": "2"}
    rate = Fraction(frame_rate or 25).limit_denominator(1001)
    stream = output.add_stream(codec, rate=rate, options=options)
    stream.width, stream.height = (max(2, side // 2 * 2) for side in (frame.width, frame.height))
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = TICK
    if frame.rotation:
        stream.set_display_rotation(frame.rotation)
    return stream


def _read_frames(stretch: Stretch) -> Iterator[tuple[Iterator[tuple[float, Any]], MediaInfo]]:
    """Pictures between start and end with their times, of ever longer runs up to them; and facts."""
    for media, is_start in open_early(stretch, is_picture=True):
        yield _decode_frames(media, stretch, is_start=is_start), media.info


def _decode_frames(media: Media, stretch: Stretch, *, is_start: bool) -> Iterator[tuple[float, Any]]:
    """Nothing if the run begins after the start, where another one may not."""
    before: Any = None
    packet: Any
    spans = media.shown.get(media.video.index, EVERYTHING)
    for packet in itertools.chain(iterate_packets(media, [media.video]), [None]):
        frames: Any = ()
        with suppress(av.error.FFmpegError):
            frames = media.video.codec_context.decode(packet)
        for frame in frames:
            stretch.limits.check_frame_size(frame.width, frame.height)
            time = None if frame.pts is None else time_of(media, media.video, frame.pts)
            if time is None or not any(low - 1e-6 <= time < high for low, high in spans):
                continue
            if time >= stretch.end:
                break
            if time <= stretch.start:
                before = frame
                continue
            if before is None and not is_start:
                return
            if before is not None:
                yield stretch.start, before
            is_start, before = True, None
            yield time, frame
        else:
            continue
        break
    if before is not None:  # on screen all the time
        yield stretch.start, before


def _encode_frames(output: Any, stream: Any, frames: Iterable[tuple[float, Any]], stretch: Stretch) -> float:
    """Write pictures; returns when the last one ends."""
    last, time, step, num_bytes = -1, stretch.start, 0.04, 0
    for at, frame in frames:
        pts = max(last + 1, round((at - stretch.start) / TICK))
        picture = frame.reformat(stream.width, stream.height, "yuv420p")
        picture.pts, picture.time_base, picture.pict_type = pts, TICK, PictureType.NONE
        packets = stream.encode(picture)
        output.mux(packets)
        num_bytes += sum(packet.size for packet in packets)
        check_size(num_bytes)
        if last >= 0:
            step = at - time
        last, time = pts, at
    output.mux(stream.encode(None))
    return min(stretch.end, time + step)


def _encode_sound(output: Any, stream: Any, samples: Samples, rate: int) -> None:
    """Write sound as stereo: of several channels the even ones are left and the odd ones right."""
    num_channels = samples.shape[1]
    for start in range(0, len(samples), BLOCK_SAMPLES):
        block = to_float(samples[start : start + BLOCK_SAMPLES])
        sides = [block[:, side % num_channels :: 2].mean(axis=1) for side in (0, 1)]
        frame = av.AudioFrame.from_ndarray(np.stack(sides), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))
