"""Silence, stills and test bars, made by FFmpeg's own sources and coders, and what only comes close to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from av.filter import Graph
from numpy.typing import NDArray

from models.media.clip import ClipSpec, MediaInfo, decode_segments
from models.media.stillness import all_known, is_still
from tests.support.media_files import AudioTrack, VideoTrack, every, make_tone, write_media

RATE = 48_000
SIDE = 128
SHORT = ClipSpec(segment_seconds=1.0, frame_size=SIDE)
STEP = 2.0**-15
Painter = Callable[[int], NDArray[np.uint8]]


def noise(amplitude: float, *, seconds: float = 1.5) -> NDArray[np.float32]:
    """White noise in two channels, of this RMS."""
    rng = np.random.default_rng(0)
    return (amplitude * rng.standard_normal((2, round(seconds * RATE)))).astype(np.float32)


def dither() -> NDArray[np.float32]:
    """Digital silence of 16 bits with triangular dither of one step: -1, 0 and 1."""
    rng = np.random.default_rng(1)
    triangular = rng.random((2, 3 * RATE // 2)) - rng.random((2, 3 * RATE // 2))
    return (np.rint(triangular) * STEP).astype(np.float32)


def lavfi(source: str, arguments: str = f"size={SIDE}x{SIDE}:rate=25") -> Painter:
    """Pictures of a source of the `ffmpeg` command, each frame once."""
    graph = Graph()
    graph.link_nodes(graph.add(source, arguments), graph.add("buffersink")).configure()
    frames: list[NDArray[np.uint8]] = []

    def paint(number: int) -> NDArray[np.uint8]:
        while len(frames) <= number:
            frames.append(graph.vpull().to_ndarray(format="rgb24"))
        return frames[number]

    return paint


def photograph(number: int) -> NDArray[np.uint8]:
    """Edges, gradients and grain, the same in each frame."""
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:SIDE, :SIDE]
    grey = 128 + 60 * np.sin(x / 9) * np.cos(y / 7) + 30 * (x > y) + 4 * rng.standard_normal((SIDE, SIDE))
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def photograph_with_a_dot(number: int) -> NDArray[np.uint8]:
    """The same, and a dot of 2 pixels on its way."""
    picture = photograph(number)
    picture[40:42, 20 + number : 22 + number] = 255
    return picture


@pytest.mark.parametrize(
    "samples", [np.zeros((2, 3 * RATE // 2), np.float32), dither()], ids=["zero", "dither"]
)
@pytest.mark.parametrize(
    ("ending", "codec"),
    [
        ("wav", "pcm_s16le"),
        ("flac", "flac"),
        ("mp3", "libmp3lame"),
        ("m4a", "aac"),
        ("ogg", "libopus"),
        ("ac3", "ac3"),
    ],
)
def test_silence_is_marked_whatever_codes_it(
    tmp_path: Path, samples: NDArray[np.float32], ending: str, codec: str
) -> None:
    path = write_media(tmp_path / f"x.{ending}", audio=AudioTrack(samples=samples, rate=RATE, codec=codec))
    info = decode_segments(path, SHORT).info
    assert (info.is_silent, info.is_static) == (True, None)


def test_silence_is_a_constant_where_a_codec_has_no_zero(tmp_path: Path) -> None:
    zeros = np.zeros((1, 8000), np.float32)
    track = AudioTrack(samples=zeros, rate=8000, layout="mono", codec="pcm_alaw")
    decoded = decode_segments(write_media(tmp_path / "x.wav", audio=track), SHORT)
    samples = decoded.clips[0].samples
    assert samples is not None
    assert samples.any()
    assert decoded.info.is_silent


@pytest.mark.parametrize("decibels", [-60, -70, -80])
def test_a_quiet_room_is_not_silence(tmp_path: Path, decibels: float) -> None:
    track = AudioTrack(samples=noise(10 ** (decibels / 20)), rate=RATE, codec="pcm_s24le")
    assert decode_segments(write_media(tmp_path / "x.wav", audio=track), SHORT).info.is_silent is False


def test_the_fact_is_about_the_whole_and_each_segment_has_its_own(tmp_path: Path) -> None:
    samples = make_tone(3.0, RATE, (440.0, 440.0))
    samples[:, : RATE + 480] = 0  # resampling rings 10 ms ahead
    path = write_media(tmp_path / "x.wav", audio=AudioTrack(samples=samples, rate=RATE, codec="pcm_s16le"))
    decoded = decode_segments(path, SHORT)
    assert ([clip.is_silent for clip in decoded.clips], decoded.info.is_silent) == (
        [True, False, False],
        False,
    )
    first = decode_segments(path, SHORT, count=1).info
    rest = decode_segments(path, SHORT, first=1).info
    assert (first.is_silent, rest.is_silent, rest.after(first).is_silent) == (True, False, False)
    assert rest.after(None) == rest


def test_channels_that_cancel_in_an_earlier_part_stay_told() -> None:
    facts = {"container": "wav", "size_bytes": 1, "modified_ns": 1, "duration_seconds": 2.0}
    first, last = MediaInfo(**facts, is_out_of_phase=True, is_silent=True), MediaInfo(**facts)  # type: ignore[arg-type]
    joined = last.after(first)
    assert (joined.is_out_of_phase, joined.is_silent, joined.is_static) == (True, True, None)
    old = {name: value for name, value in asdict(first).items() if name not in {"is_silent", "is_static"}}
    assert MediaInfo(**old).is_silent is None, "facts stored by earlier versions open as unknown"


@pytest.mark.parametrize(
    ("codec", "ending", "options"),
    [
        ("libx264", "mp4", {"preset": "veryfast", "crf": "28"}),
        ("mpeg2video", "mpg", {"b": "800000"}),
        ("mpeg4", "avi", {"b": "500000"}),
        ("mjpeg", "avi", {"pix_fmt": "yuvj420p", "qmin": "4", "qmax": "4"}),
    ],
)
@pytest.mark.parametrize(
    ("paint", "is_static"),
    [
        (lavfi("smptebars"), True),
        (lavfi("color", f"color=navy:size={SIDE}x{SIDE}:rate=25"), True),
        (photograph, True),
        (lavfi("testsrc"), False),
        (photograph_with_a_dot, False),
    ],
    ids=["smptebars", "colour", "photograph", "testsrc", "dot"],
)
def test_a_picture_without_change_is_marked_whatever_codes_it(
    tmp_path: Path, paint: Painter, is_static: bool, codec: str, ending: str, options: dict[str, str]
) -> None:
    pixel_format = options.get("pix_fmt", "yuv420p")
    track = VideoTrack(
        times=every(2.0, 25), codec=codec, side=SIDE, options=options, paint=paint, pixel_format=pixel_format
    )
    decoded = decode_segments(write_media(tmp_path / f"x.{ending}", video=track), SHORT)
    assert [clip.is_static for clip in decoded.clips] == [is_static] * len(decoded.clips)
    assert (decoded.info.is_static, decoded.info.is_silent) == (is_static, None)


def test_a_picture_may_sharpen_at_its_start_and_not_later() -> None:
    frames = np.full((16, 64, 64, 3), 100, np.uint8)
    frames[:4] += 8
    assert is_still(frames)
    assert not is_still(frames[::-1])
    assert is_still(frames[:1]), "one picture is a still"


def test_small_squares_are_judged_too() -> None:
    frames = np.zeros((16, 1, 1, 3), np.uint8)
    assert is_still(frames)
    frames[9] = 200
    assert not is_still(frames)


@pytest.mark.parametrize(
    ("facts", "whole"), [((), None), ((None,), None), ((None, True), True), ((True, False, None), False)]
)
def test_what_is_known_of_no_part_is_unknown(facts: tuple[bool | None, ...], whole: bool | None) -> None:
    assert all_known(facts) is whole
