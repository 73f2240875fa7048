"""Pictures at both ends of a segment, every picture, and pictures that keep no shape."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.media import reading
from models.media.clip import Clip, ClipSpec, DecodeLimits, TooComplex, decode_segments
from models.media.frame import stretch_square
from models.media.timeline import FrameTimes
from tests.support.media_files import (
    AudioTrack,
    VideoTrack,
    decode_frames_plainly,
    decode_plainly,
    every,
    make_tone,
    measure_tone,
    write_media,
)
from tests.support.paths import MEDIA

ENDS = ClipSpec(
    num_moments=1,
    num_frames=16,
    frame_times="ends",
    frame_shape="stretch",
    frame_size=48,
    sample_rate_hz=48_000,
)
ALL = dataclasses.replace(ENDS, num_frames=None, frame_times="all")
SPECS = {"ends": ENDS, "all": ALL}
UNEVEN = [0.0, 0.1, 0.15, 4.0, 4.01, 4.02, 9.999, 10.0, 10.5, 25.0, 25.1, 31.0, 31.04]
TRACKS = {
    "even.mp4": VideoTrack(times=every(24.5, 10), gop=60),
    "uneven.mkv": VideoTrack(times=UNEVEN),
    "even.avi": VideoTrack(times=every(24.5, 10), codec="mpeg4", options={"bf": "2"}),
    "even.ts": VideoTrack(times=every(12.5, 25), options={"x264-params": "open-gop=1"}),
}


def choose(times: np.ndarray[Any, Any], segment: int, which: FrameTimes) -> list[int]:
    """Decode everything, take the frames that come on screen in the segment, and index them as the issue says."""
    end = (segment + 1) * ENDS.segment_seconds
    inside = [i for i, at in enumerate(times) if end - ENDS.segment_seconds - 1e-6 <= at < end - 1e-6]
    if not inside:
        inside = [int(np.searchsorted(times, segment * ENDS.segment_seconds + 1e-6) - 1)]
    return inside if which == "all" else [inside[int(i * (len(inside) - 1) / 15)] for i in range(16)]


def resize_as_published(pixels: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
    """What `BaseVideoProcessor.resize` of transformers does to a frame."""
    from torchvision.transforms.v2 import (
        functional as torchvision,  # seconds, which most workers need not spend
    )

    given = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
    bilinear = torchvision.InterpolationMode.BILINEAR
    resized = torchvision.resize(given, [size, size], interpolation=bilinear, antialias=True)
    return resized.permute(1, 2, 0).numpy().astype(int)


def check(path: Path, which: FrameTimes, clips: tuple[Clip, ...]) -> None:
    plain = decode_plainly(path)
    picks = [choose(plain.times, round(clip.start_seconds / 10), which) for clip in clips]
    expected = decode_frames_plainly(path, plain, {pick for chosen in picks for pick in chosen})
    for clip, chosen in zip(clips, picks, strict=True):
        np.testing.assert_allclose(clip.frame_times_seconds, plain.times[chosen], atol=1e-9)
        for pick, frame in zip(chosen, clip.frames, strict=True):
            assert np.abs(frame - resize_as_published(expected[pick], 48)).max() <= 1


@pytest.mark.parametrize("which", SPECS)
@pytest.mark.parametrize("name", [*TRACKS, "v12_rot90_noaudio.mov", "still.mp4"])
def test_frames_are_those_of_all_frames_indexed(name: str, which: FrameTimes, tmp_path: Path) -> None:
    if name in TRACKS:
        path = write_media(tmp_path / name, video=TRACKS[name])
    elif name == "still.mp4":
        path = write_media(tmp_path / name, video=VideoTrack(times=[0.0]))
    else:
        path = MEDIA / name
    spec = SPECS[which]
    whole = decode_segments(path, spec)
    assert whole.clips
    check(path, which, whole.clips)
    for number in range(len(whole.clips)):
        part = decode_segments(path, spec, first=number, count=1)
        np.testing.assert_array_equal(part.clips[0].frames, whole.clips[number].frames)


@pytest.mark.parametrize("which", SPECS)
def test_frames_that_packets_do_not_tell_of_are_found_by_decoding(
    which: FrameTimes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_media(tmp_path / "even.mp4", video=TRACKS["even.mp4"])
    true = reading._list_frames
    monkeypatch.setattr(
        reading, "_list_frames", lambda request, plan: request.frame_starts or true(request, plan)[::3]
    )
    check(path, which, decode_segments(path, SPECS[which]).clips)


def test_a_segment_of_too_many_frames_is_refused(tmp_path: Path) -> None:
    path = write_media(tmp_path / "even.mp4", video=TRACKS["even.mp4"])
    with pytest.raises(TooComplex, match="at most 50 frames"):
        decode_segments(path, ALL, limits=DecodeLimits(max_segment_frames=50))
    assert len(decode_segments(path, ENDS, limits=DecodeLimits(max_segment_frames=50)).clips) == 3


@pytest.mark.parametrize("size", [(720, 1280), (50, 70), (336, 336), (17, 900)])
def test_a_stretched_picture_is_the_published_one(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert np.abs(stretch_square(pixels, 336) - resize_as_published(pixels, 336)).max() <= 1


def test_more_frames_than_moments() -> None:
    few = decode_segments(
        MEDIA / "v12_rot90_noaudio.mov", ClipSpec(num_moments=1, num_frames=16, frame_size=48)
    )
    usual = decode_segments(MEDIA / "v12_rot90_noaudio.mov", ClipSpec(frame_size=48))
    np.testing.assert_array_equal(few.clips[0].frames, usual.clips[0].frames)


@pytest.mark.parametrize("rate", [44_100, 48_000])
@pytest.mark.parametrize(("seconds", "is_heard"), [(0.024, False), (0.026, True), (1.5, True)])
def test_sound_at_48_khz(rate: int, seconds: float, is_heard: bool, tmp_path: Path) -> None:
    track = AudioTrack(samples=make_tone(seconds, rate, [15_000, 15_000]), rate=rate, codec="pcm_s16le")
    video = VideoTrack(times=every(1.5, 10))
    samples = (
        decode_segments(write_media(tmp_path / "a.mkv", video=video, audio=track), ENDS).clips[0].samples
    )
    assert (samples is not None) == is_heard
    if seconds == 1.5:
        assert samples is not None
        assert len(samples) == 72_000
        assert measure_tone(samples, 48_000, 15_000) == pytest.approx(
            0.5, rel=0.01
        )  # 16 kHz would not hold it


def test_a_spec_of_before_is_described_as_before() -> None:
    assert sorted(ClipSpec().to_json()) == [
        "frame_size",
        "min_segment_seconds",
        "num_moments",
        "sample_rate_hz",
        "segment_seconds",
    ]
    for spec in (ENDS, ALL):
        assert ClipSpec(**spec.to_json()) == spec
