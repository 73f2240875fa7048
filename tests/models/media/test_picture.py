"""Which frames are picked, and that leaving frames out changes none of them."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.media.clip import ClipSpec, DecodeLimits, TooComplex, decode_segments
from models.media.opening import open_media
from models.media.picture import LandedLate, PictureReader, SkippingInexact
from models.media.reading import iterate_packets
from models.media.timeline import MomentPlan
from tests.support.media_files import VideoTrack, every, paint_number, read_number, write_media

SPEC = ClipSpec()


def read_pictures(path: Path, *, can_skip: bool, duration: float | None = None) -> tuple[PictureReader, int]:
    """Read a file with or without leaving frames out; also the number of frames that were decoded."""
    shown = 0

    class CountingReader(PictureReader):
        def _show(self, frame: object) -> None:
            nonlocal shown
            shown += 1
            super()._show(frame)

    with open_media(path) as media:
        seconds = media.info.duration_seconds if duration is None else duration
        plan = MomentPlan(spec=SPEC, duration_seconds=seconds)
        reader = CountingReader(
            media.video,
            origin_seconds=media.origin_seconds,
            plan=plan,
            limits=DecodeLimits(),
            can_skip=can_skip,
        )
        for packet in iterate_packets(media, [media.video]):
            reader.feed(packet)
        reader.finish()
    return reader, shown


def assert_same(left: PictureReader, right: PictureReader, num_segments: int) -> None:
    assert left.end_seconds == right.end_seconds
    for segment in range(num_segments):
        frames, times = left.frames(segment)
        others, other_times = right.frames(segment)
        np.testing.assert_array_equal(times, other_times)
        np.testing.assert_array_equal(frames, others)


def shown_at(times: list[float], wanted: list[float]) -> list[int]:
    """The rule, word for word: the last frame at or before the time, the first one before any."""
    return [max([i for i, time in enumerate(times) if time <= want + 1e-6], default=0) for want in wanted]


TRACKS = {
    "h264 with B-frames": ("clip.mp4", VideoTrack(times=every(13, 25))),
    "h264 with a pyramid": (
        "clip.mkv",
        VideoTrack(times=every(13, 25), gop=250, options={"bf": "7", "b-pyramid": "normal"}),
    ),
    "h264 in MPEG-TS": ("clip.ts", VideoTrack(times=every(13, 25))),
    "open GOP": (
        "clip.mp4",
        VideoTrack(times=every(13, 25), options={"x264-params": "open-gop=1:keyint=50"}),
    ),
    "intra only": ("clip.avi", VideoTrack(times=every(13, 25), codec="mjpeg", pixel_format="yuvj420p")),
}


@pytest.mark.parametrize("name", TRACKS)
def test_leaving_frames_out_picks_the_same(name: str, tmp_path: Path) -> None:
    file_name, track = TRACKS[name]
    path = write_media(tmp_path / file_name, video=track)
    fast, num_fast = read_pictures(path, can_skip=True)
    full, num_full = read_pictures(path, can_skip=False)
    assert_same(fast, full, 2)
    assert num_full == len(track.times)
    assert num_fast < 0.75 * num_full  # or the test would show nothing


def test_interlaced_frames_are_all_decoded(tmp_path: Path) -> None:
    options = {"flags": "+ildct+ilme", "x264-params": "interlaced=1"}
    path = write_media(tmp_path / "clip.mp4", video=VideoTrack(times=every(3, 25), options=options))
    with pytest.raises(SkippingInexact, match="fields of one frame"):
        read_pictures(path, can_skip=True)
    picked = decode_segments(path, SPEC).clips[0]
    assert [read_number(frame) for frame in picked.frames] == shown_at(
        every(3, 25), [3 * i / 16 for i in range(16)]
    )


@pytest.mark.parametrize("suffix", ["mp4", "ts"])
def test_damage_is_never_covered_up_by_leaving_frames_out(suffix: str, tmp_path: Path) -> None:
    content = write_media(tmp_path / f"clip.{suffix}", video=VideoTrack(times=every(8, 25))).read_bytes()
    path = tmp_path / f"damaged.{suffix}"
    end = content.index(b"moov") if suffix == "mp4" else len(content)
    num_given_up = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        damaged = bytearray(content)
        for position in rng.integers(600, end - 8, rng.integers(1, 20)):
            damaged[position] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        full, _ = read_pictures(path, can_skip=False)
        try:
            fast, _ = read_pictures(path, can_skip=True)
        except SkippingInexact:
            num_given_up += 1
            fast = full
        if full.frames(0) is not None:
            assert_same(fast, full, 1)
    assert num_given_up > 0


def test_variable_frame_rate_goes_by_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    times = [0.0, *np.cumsum(rng.choice([1 / 50, 1 / 25, 0.3, 1.1], 60)).tolist()]
    path = write_media(tmp_path / "clip.mp4", video=VideoTrack(times=times))
    for clip in decode_segments(path, SPEC).clips:
        length = clip.end_seconds - clip.start_seconds
        wanted = [clip.start_seconds + length * i / 16 for i in range(16)]
        expected = shown_at(times, wanted)
        assert [read_number(frame) for frame in clip.frames] == expected
        # Files keep time in ticks of 1/12800 s.
        np.testing.assert_allclose(clip.frame_times_seconds, [times[i] for i in expected], atol=1e-4)


def test_a_frame_is_on_screen_from_its_very_time(tmp_path: Path) -> None:
    # 16 frames in 10 s: moment i lies exactly on frame i.
    path = write_media(tmp_path / "clip.mp4", video=VideoTrack(times=every(10, 1.6), gop=4))
    clip = decode_segments(path, SPEC).clips[0]
    assert [read_number(frame) for frame in clip.frames] == list(range(16))


def test_the_first_frame_stands_before_and_the_last_after(tmp_path: Path) -> None:
    path = write_media(tmp_path / "clip.mkv", video=VideoTrack(times=[0.0, 0.1, 0.2]))
    clip = decode_segments(path, SPEC).clips[0]
    assert clip.end_seconds < 1  # the only segment may be short
    assert read_number(clip.frames[0]) == 0
    assert read_number(clip.frames[15]) == 2


def test_the_picture_may_change_its_size(tmp_path: Path) -> None:
    parts = []
    for number, side in enumerate((64, 128)):
        # The first part is written 0.08 s later, for the B-frames to have decoding times.
        track = VideoTrack(times=every(2, 25, start=2.08 * number), side=side)
        parts.append(write_media(tmp_path / f"{side}.ts", video=track).read_bytes())
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(parts))
    clip = decode_segments(path, SPEC).clips[0]
    assert clip.end_seconds == pytest.approx(4.0, abs=0.1)
    numbers = [read_number(frame) for frame in clip.frames]
    wanted = [clip.end_seconds * i / 16 for i in range(16)]
    assert numbers == [number % 50 for number in shown_at(every(4, 25), wanted)]
    with pytest.raises(
        TooComplex, match="a picture may have at most 100 x 100 pixels, this one has 128 x 128"
    ):
        decode_segments(path, SPEC, limits=DecodeLimits(max_frame_width=100, max_frame_height=100))


def test_a_late_landing_is_noticed(tmp_path: Path) -> None:
    path = write_media(tmp_path / "clip.mp4", video=VideoTrack(times=every(12, 25), gop=50))
    with open_media(path) as media:
        plan = MomentPlan(spec=replace(SPEC, segment_seconds=5.0), first=1)
        reader = PictureReader(
            media.video, origin_seconds=0.0, plan=plan, limits=DecodeLimits(), has_seeked=True
        )
        packets = [
            packet for packet in iterate_packets(media, [media.video]) if packet.pts * packet.time_base > 5.2
        ]
        with pytest.raises(LandedLate, match=r"the first frame is at 6\.0 s, 5\.0"):
            deque(map(reader.feed, packets))


@pytest.mark.parametrize(
    ("colour", "name"), [((200, 30, 40), "red"), ((30, 60, 190), "blue"), ((90, 90, 90), "grey")]
)
def test_colours_survive(colour: tuple[int, int, int], name: str, tmp_path: Path) -> None:
    def paint(number: int) -> np.ndarray:
        return np.full((64, 64, 3), colour, np.uint8)

    path = write_media(tmp_path / f"{name}.mp4", video=VideoTrack(times=every(1, 25), paint=paint))
    pixels = decode_segments(path, SPEC).clips[0].frames[3].reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(pixels, colour, atol=4)  # a lossy codec with two bits less of colour


def test_numbers_can_be_read_back() -> None:
    assert all(read_number(paint_number(number)) == number for number in (0, 1, 0x8421, 0xFFFF))
