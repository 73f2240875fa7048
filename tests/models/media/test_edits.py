"""Edit lists of every shape, written into one film whose numbers and pitch tell the second of the recording."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.media.clip import ClipSpec, decode_segments
from models.media.edits import find_boxes
from tests.support.media_files import AudioTrack, VideoTrack, every, paint_number, read_number, write_media

SECONDS = 9
SPEC = ClipSpec(num_moments=8, frame_size=64)
Part = tuple[int, int]  # length, and where in the recording it starts; -1 is an empty edit


def pitch(second: int) -> int:
    return 400 + 200 * second


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    times = np.arange(SECONDS * 16_000) / 16_000
    tones = np.sin(2 * np.pi * np.array([pitch(int(t)) for t in times]) * times)[None].astype(np.float32)
    return write_media(
        tmp_path_factory.mktemp("film") / "film.mov",
        video=VideoTrack(times=every(SECONDS, 25), paint=lambda number: paint_number(number // 25)),
        audio=AudioTrack(samples=tones / 2, rate=16_000, layout="mono", codec="pcm_s16le"),
    )


def box(kind: bytes, content: bytes) -> bytes:
    return (len(content) + 8).to_bytes(4, "big") + kind + content


def edit(source: Path, path: Path, lists: list[list[Part]]) -> Path:
    """Give each track of a MOV whose index is its last box another edit list."""
    content = source.read_bytes()
    with source.open("rb") as file:
        (moov,) = find_boxes(file.fileno(), 0, len(content), b"moov")
        tracks = list(find_boxes(file.fileno(), *moov, b"trak"))
        index, place = b"", moov[0]
        for (start, stop), parts in zip(tracks, lists, strict=True):
            (media,) = find_boxes(file.fileno(), start, stop, b"mdia")
            (header,) = find_boxes(file.fileno(), *media, b"mdhd")
            scale = int.from_bytes(content[header[0] + 12 : header[0] + 16], "big")
            entries = b"".join(
                (1000 * length).to_bytes(4, "big")
                + (begin if begin < 0 else begin * scale).to_bytes(4, "big", signed=True)
                + (1 << 16).to_bytes(4, "big")
                for length, begin in parts
            )
            elst = box(b"elst", bytes(4) + len(parts).to_bytes(4, "big") + entries)
            (old,) = find_boxes(file.fileno(), start, stop, b"edts")
            track = content[start : old[0] - 8] + box(b"edts", elst) + content[old[1] : stop]
            index += content[place : start - 8] + box(b"trak", track)
            place = stop
    path.write_bytes(content[: moov[0] - 8] + box(b"moov", index + content[place : moov[1]]))
    return path


def shown_at(parts: list[Part], time: float) -> int | None:
    """The second of the recording at a time of the timeline, None in an empty edit and after the end."""
    for length, begin in parts:
        if time < length:
            return None if begin < 0 else int(begin + time)
        time -= length
    return None


@pytest.mark.parametrize(
    ("pictures", "sounds"),
    [
        ([(4, 3)], [(4, 3)]),
        ([(8, 1)], [(4, 3)]),  # the sound is cut shorter than the picture
        ([(4, 3)], [(8, 1)]),
        ([(8, 1)], [(3, -1), (4, 3)]),  # the sound comes in late, from its own middle
        ([(3, -1), (4, 3)], [(8, 1)]),
        ([(2, -1), (4, 3)], [(2, -1), (4, 3)]),
        ([(2, 1), (2, -1), (3, 5)], [(2, 1), (2, -1), (3, 5)]),
        ([(2, 6), (3, 1)], [(3, 1), (2, 6)]),
        ([(2, 4), (2, 4), (2, 4)], [(6, 0)]),
    ],
)
def test_a_film_shows_and_sounds_what_its_edits_say(
    film: Path, tmp_path: Path, pictures: list[Part], sounds: list[Part]
) -> None:
    decoded = decode_segments(edit(film, tmp_path / "cut.mov", [pictures, sounds]), SPEC)
    (clip,) = decoded.clips
    length = max(sum(part[0] for part in pictures), sum(part[0] for part in sounds))
    assert not decoded.is_partial
    assert clip.end_seconds == pytest.approx(length, abs=0.1)
    assert clip.frames is not None
    assert clip.samples is not None
    for moment, frame in enumerate(clip.frames):
        time = clip.end_seconds * moment / SPEC.num_moments
        if (second := shown_at(pictures, time)) is not None and 0.15 < time % 1 < 0.85:
            assert read_number(frame) == second
    for quarter in range(4 * length - 1):
        heard = clip.samples[quarter * 4000 + 800 : quarter * 4000 + 3200]
        second = shown_at(sounds, quarter / 4)
        if second is None:
            assert not heard.any()
        else:
            loudest = np.argmax(np.abs(np.fft.rfft(heard))) * 16_000 / len(heard)
            assert loudest == pytest.approx(pitch(second), abs=30)
