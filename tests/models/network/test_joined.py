"""Transport streams of which one follows another in one file: the clock starts anew, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.media.clip import Clip, ClipSpec, decode_segments, probe_media
from tests.support.media_files import (
    AudioTrack,
    VideoTrack,
    every,
    make_tone,
    measure_tone,
    read_number,
    write_media,
)

SPEC = ClipSpec()
HERTZ = (440.0, 880.0)


def write_part(path: Path, number: int, *, seconds: float, start: float) -> bytes:
    """A part whose pictures count from 0 and whose tone is its own."""
    tone = make_tone(seconds, 48_000, [HERTZ[number]] * 2)
    video = VideoTrack(times=every(seconds, 25, start=start))
    return write_media(path, video=video, audio=AudioTrack(samples=tone, start=start)).read_bytes()


def join(folder: Path, starts: tuple[float, float], seconds: float) -> Path:
    parts = [
        write_part(folder / f"{number}.ts", number, seconds=seconds, start=start)
        for number, start in enumerate(starts)
    ]
    path = folder / "joined.ts"
    path.write_bytes(b"".join(parts))
    return path


def tones(clip: Clip) -> list[float]:
    """Which tone sounds in the middle of each second."""
    assert clip.samples is not None
    starts = range(0, len(clip.samples) - 15_000, 16_000)
    seconds = [clip.samples[start + 4_000 : start + 12_000] for start in starts]
    return [max(HERTZ, key=lambda hertz: measure_tone(part, 16_000, hertz)) for part in seconds]


@pytest.mark.parametrize("starts", [(0.0, 0.0), (3600.0, 0.0), (50.0, 10.0)])
def test_both_parts_are_there(starts: tuple[float, float], tmp_path: Path) -> None:
    path = join(tmp_path, starts, 3.0)
    decoded = decode_segments(path, SPEC)
    (clip,) = decoded.clips
    assert clip.end_seconds == pytest.approx(6.0, abs=0.05)
    assert not decoded.is_partial
    assert tones(clip) == [HERTZ[0]] * 3 + [HERTZ[1]] * 3
    assert clip.frames is not None
    # Frame i is on screen at 6 s · i / 16, at 25 frames a second, of parts of 75 frames.
    shown = [read_number(frame) for frame in clip.frames]
    expected = [int(clip.end_seconds * moment / 16 * 25) % 75 for moment in range(16)]
    assert np.abs(np.subtract(shown, expected)).max() <= 1


def test_chunks_are_the_whole(tmp_path: Path) -> None:
    path = join(tmp_path, (0.0, 0.0), 15.0)
    whole = decode_segments(path, SPEC)
    assert len(whole.clips) == 3
    for number, clip in enumerate(whole.clips):
        chunk = decode_segments(path, SPEC, first=number, count=1)
        np.testing.assert_array_equal(chunk.clips[0].frames, clip.frames)
        # Sound follows on at a joint, up to 40 ms late: a later chunk does not know of that.
        assert tones(chunk.clips[0]) == tones(clip)
        assert chunk.is_last == (number == 2)


def test_a_gap_stays_a_gap(tmp_path: Path) -> None:
    """The control: later by less than the clock can count is a pause, and is kept."""
    assert decode_segments(join(tmp_path, (0.0, 60.0), 3.0), SPEC).info.duration_seconds == pytest.approx(
        63, abs=0.1
    )


def test_a_length_that_is_no_length_is_not_told(tmp_path: Path) -> None:
    assert probe_media(join(tmp_path, (3600.0, 0.0), 3.0)).duration_seconds is None
