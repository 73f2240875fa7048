from __future__ import annotations

import math
import os
import wave
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.media.clip import ClipSpec, UnreadableClip
from tests.support.clip_work import crash_in_the_middle, hang, starts
from tests.support.media_files import (
    AudioTrack,
    VideoTrack,
    every,
    make_tone,
    paint_number,
    write_media,
    write_quiet_start,
)
from training.data import pairs
from training.data.listing import Item, list_items
from training.data.pairs import Failure, decode_item, read_picture, work_on_pairs
from training.data.segments import PairedSegments

SHORT = ClipSpec(segment_seconds=0.25, min_segment_seconds=0.25)
"""So that a clip of 10 s has more segments than are decoded at a time."""


def test_every_segment_comes_in_order_and_failures_in_their_place(corpus: Path) -> None:
    items = list_items([corpus])
    seen: list[tuple[int, int]] = []
    found = list(work_on_pairs(items, SHORT, starts, num_workers=2, on_progress=lambda *at: seen.append(at)))
    assert seen == [(done, len(items)) for done in range(1, len(items) + 1)]
    for number, item in enumerate(items):
        mine = [result for result in found if not isinstance(result, Failure) and result[0] == number]
        failures = [
            result.reason for result in found if isinstance(result, Failure) and result.path == item.name
        ]
        if "-" in item.name.rsplit("/", 1)[1] or "broken" in item.name:
            assert not mine
            assert len(failures) == 1
        else:
            assert [start for _, start in mine] == [0.25 * k for k in range(40)]
            assert not failures
    numbers = [result[0] for result in found if not isinstance(result, Failure)]
    assert numbers == sorted(numbers)


def test_a_process_that_dies_costs_the_rest_of_its_item_only(segments: PairedSegments) -> None:
    items = [Item(path=Path(path)) for path in segments.paths[:2]]
    found = list(work_on_pairs(items, SHORT, crash_in_the_middle, num_workers=1))
    crash = "crash: the decoder ended with exit code 3"
    expected = []
    for number, item in enumerate(items):  # the third 16 of 40 segments begin with the one at 8 s
        expected += [(number, 0.25 * k) for k in range(32)]
        expected.append(Failure(path=item.name, reason=crash))
    assert found == expected


def test_a_process_that_hangs_costs_its_item_only(
    segments: PairedSegments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "MAX_SECONDS", 1.0)
    items = [Item(path=Path(segments.paths[0]))]
    found = list(work_on_pairs(items, ClipSpec(), hang, num_workers=1))
    assert found == [Failure(path=segments.paths[0], reason="too_slow: not decoded within 1 s")]


def test_a_link_in_a_folder_is_followed(segments: PairedSegments, tmp_path: Path) -> None:
    (tmp_path / "link.mp4").symlink_to(segments.paths[0])
    assert list(work_on_pairs(list_items([tmp_path]), ClipSpec(), starts, num_workers=1)) == [(0, 0.0)]


def test_segments_that_tell_nothing_are_left_out_and_counted(tmp_path: Path) -> None:
    quiet = write_quiet_start(tmp_path / "a.mkv")
    still = write_media(
        tmp_path / "b.mkv",
        video=VideoTrack(times=every(2.0, 25), paint=lambda _: paint_number(5)),
        audio=AudioTrack(samples=make_tone(2.0, 48_000, (440.0, 440.0)), codec="pcm_s16le"),
    )
    spec = ClipSpec(segment_seconds=1.0)
    left_out: dict[str, int] = {}
    items = [Item(path=quiet), Item(path=still)]
    found = list(work_on_pairs(items, spec, starts, num_workers=1, on_left_out=left_out.__setitem__))
    nothing = "no_pair: every segment has silence or a picture that never changes"
    assert found == [(0, 1.0), Failure(path=str(still), reason=nothing)]
    assert left_out == {str(quiet): 1, str(still): 2}
    assert len(decode_item(items[0], spec, first=0).results) == 2, "evaluation takes them all"


def write_sound(path: Path, *, seconds: float) -> None:
    """A 16 kHz mono ramp-like tone as 16-bit WAV."""
    samples = (8000 * np.sin(np.arange(round(seconds * 16_000)) / 20)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(samples.tobytes())


def write_frames(folder: Path, name: str, *, count: int) -> None:
    """Pictures of 320 × 224, of one grey each, 7 brighter than the one before."""
    for number in range(count):
        (folder / f"frame_{number}").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (320, 224), (7 * number,) * 3).save(folder / f"frame_{number}" / name, quality=95)


@pytest.mark.parametrize("count", [10, 16, 32])
def test_moments_of_a_sound_see_the_pictures_beside_it(tmp_path: Path, count: int) -> None:
    write_sound(tmp_path / "a.wav", seconds=10.03)
    write_frames(tmp_path, "a.jpg", count=count)
    item = Item(wav=tmp_path / "a.wav", frame_folder=tmp_path, frame_name="a.jpg", num_frames=count)
    chunk = decode_item(item, ClipSpec(), first=0)
    assert chunk.is_last
    (clip,) = chunk.results
    assert clip.samples is not None
    assert clip.samples.shape == (160_000,)
    assert clip.frames is not None
    assert clip.frames.shape == (16, 224, 224, 3)
    greys = clip.frames.astype(int).mean(axis=(1, 2, 3)) / 7
    assert greys.round().astype(int).tolist() == [math.floor(i * count / 16) for i in range(16)]


def test_pictures_are_cut_like_frames_of_a_video(tmp_path: Path) -> None:
    """torchvision's antialiased bilinear resize is the reference, within a grey level of rounding."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 500, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(noise).permute(2, 0, 1)[None].float(), (224, 373), mode="bilinear", antialias=True
    )
    left = round((373 - 224) / 2)
    expected = resized[0, :, :, left : left + 224].permute(1, 2, 0).numpy()
    assert np.abs(read_picture(tmp_path / "noise.png", 224) - expected).max() < 2


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "frame_7" / "a.jpg").unlink(), r"frame_7/a\.jpg: No such file"),
        (
            lambda folder: (folder / "frame_7" / "a.jpg").write_bytes(b"x"),
            r"frame_7/a\.jpg is neither JPEG nor PNG",
        ),
        (lambda folder: os.truncate(folder / "frame_7" / "a.jpg", 700), r"frame_7/a\.jpg: .*truncated"),
        (lambda folder: (folder / "a.wav").unlink(), "the file cannot be opened: No such file"),
        (lambda folder: write_sound(folder / "a.wav", seconds=0.01), "nothing in it decodes"),
    ],
)
def test_a_sound_with_a_picture_missing_is_named_not_made_up(tmp_path: Path, damage, reason: str) -> None:
    write_sound(tmp_path / "a.wav", seconds=2)
    write_frames(tmp_path, "a.jpg", count=10)
    damage(tmp_path)
    item = Item(wav=tmp_path / "a.wav", frame_folder=tmp_path, frame_name="a.jpg", num_frames=10)
    with pytest.raises(UnreadableClip, match=reason):
        decode_item(item, ClipSpec(), first=0)


def test_a_sound_without_frame_folders_is_named(tmp_path: Path) -> None:
    write_sound(tmp_path / "a.wav", seconds=2)
    item = Item(wav=tmp_path / "a.wav", frame_folder=tmp_path / "frames", frame_name="a.jpg")
    with pytest.raises(UnreadableClip, match="frames/frame_0 is not there"):
        decode_item(item, ClipSpec(), first=0)


def test_a_picture_too_large_is_refused(tmp_path: Path) -> None:
    Image.new("L", (9000, 10)).save(tmp_path / "wide.png")
    with pytest.raises(UnreadableClip, match="this one has 9000 x 10"):
        read_picture(tmp_path / "wide.png", 224)


def test_a_long_file_is_on_its_way_in_several_parts(segments: PairedSegments) -> None:
    """40 segments in parts of 16, and two more files: what is submitted, in order, with four tasks on their way."""
    asked: list[tuple[int, int]] = []

    def submit(number: int, first: int) -> Future[pairs.Chunk[str]]:
        asked.append((number, first))
        return Future()

    schedule: pairs._Schedule[str] = pairs._Schedule(6, submit, 4)
    tasks = iter(schedule)
    first = next(tasks)
    assert asked == [(0, 0), (1, 0), (2, 0), (3, 0)]
    schedule.go_on(first, 40)
    assert [(task.number, task.first) for task in (next(tasks), next(tasks))] == [(0, 16), (0, 32)]
    assert asked[4:] == [(0, 16), (0, 32)]  # with two of the four that were asked for before
    last = pairs._Task[str](0, 32)
    schedule.go_on(last, 40)  # the header was wrong: there is more
    assert next(tasks).first == 48
    schedule.go_on(last, 100)
    schedule.end(last)
    assert [(task.number, task.first) for task in tasks] == [(number, 0) for number in range(1, 6)]
