"""Thumbnails, filmstrips and waveforms: right times, right size, the same from an indexing pass as read later."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.media.clip import BrokenMedia, ClipSpec, NoStream, decode_segments
from models.media.preview import (
    draw_waveform,
    join_parts,
    read_peaks,
    read_pictures,
    read_thumbnail,
    read_waveform,
)
from models.media.sampling import encode_jpeg, measure_peaks, shrink
from training.corpus.recording import FRAME_RATE, SAMPLE_RATE_HZ, write_media

RATE = 16_000


@pytest.fixture(scope="module")
def ramp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 s in which the picture brightens by 10 a second, 64 x 32, and a click is at each full second."""
    path = tmp_path_factory.mktemp("ramp") / "ramp.mp4"
    frames = np.zeros((24 * FRAME_RATE, 32, 64, 3), np.uint8)
    frames[:] = (10 * np.arange(24 * FRAME_RATE) / FRAME_RATE).astype(np.uint8)[:, None, None, None]
    samples = np.zeros(24 * SAMPLE_RATE_HZ, np.float32)
    for start in range(SAMPLE_RATE_HZ, len(samples), SAMPLE_RATE_HZ):
        samples[start : start + SAMPLE_RATE_HZ // 100] = 0.9
    write_media(path, frames=frames, samples=samples)
    return path


def _brightness(jpeg: bytes) -> float:
    return float(np.asarray(Image.open(io.BytesIO(jpeg))).mean())


def test_the_same_by_chunks_and_read_later(ramp: Path) -> None:
    decoded = [
        decode_segments(ramp, ClipSpec(), first=first, count=1, with_preview=True) for first in range(3)
    ]
    parts = [one.preview for one in decoded if one.preview is not None]
    made = join_parts(parts, decoded[-1].info.duration_seconds)
    later, peaks = read_pictures(ramp), read_peaks(ramp)
    assert (made.thumbnail, made.strip) == (later.thumbnail, later.strip)
    assert np.abs(made.peaks.astype(int) - peaks.peaks.astype(int)).max() <= 1
    assert sum(map(len, (made.thumbnail, made.strip, made.peaks.tobytes()))) <= 40_000
    assert abs(_brightness(made.thumbnail) - 24) < 10  # at 2.4 s
    strip = np.asarray(Image.open(io.BytesIO(made.strip)))
    assert strip.shape == (32, made.num_tiles * made.tile_width, 3)
    tiles = strip.reshape(32, made.num_tiles, made.tile_width, 3).mean(axis=(0, 2, 3))
    assert np.abs(tiles - 10 * np.arange(16) * 24 / 16).max() < 12


def test_long_files_are_not_decoded_whole(ramp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_pictures(ramp)
    monkeypatch.setattr("models.media.preview.SHORT_SECONDS", 1.0)
    monkeypatch.setattr("models.media.preview._read_all", None)
    some = read_pictures(ramp)
    assert abs(_brightness(some.strip) - _brightness(whole.strip)) < 4
    assert abs(_brightness(some.thumbnail) - _brightness(whole.thumbnail)) < 4


@pytest.mark.parametrize("seconds", [0.0, 5.0, 12.34, 23.9, 99.0])
def test_a_picture_at_any_time(ramp: Path, seconds: float) -> None:
    assert abs(_brightness(read_thumbnail(ramp, seconds)) - 10 * min(seconds, 24)) < 8


def test_a_click_is_where_it_is(ramp: Path) -> None:
    whole = read_peaks(ramp)
    coarse = draw_waveform(whole.peaks, whole.bucket_seconds, start=0, end=24, pixels=240)
    loud = np.flatnonzero(coarse[:, 1] > 70)
    assert set(np.rint(loud / 10)) == set(range(1, 24))
    assert np.abs(loud - 10 * np.rint(loud / 10)).max() <= 1
    fine = read_waveform(ramp, 11.5, 12.5, 1000)
    loud = np.flatnonzero(fine[:, 1] > 70)
    assert abs(loud[0] - 500) <= 3
    assert abs(loud[-1] - 510) <= 3
    assert (read_waveform(ramp, 23.5, 40.0, 33)[2:] == 0).all()


def test_peaks_are_those_of_a_loop() -> None:
    samples = np.random.default_rng(0).uniform(-1.2, 1.2, 1003).astype(np.float32)
    found = measure_peaks(samples, 1600, 96)
    slots = [[i for i in range(1003) if k * 1600 // 96 <= i < (k + 1) * 1600 // 96] for k in range(61)]
    right = [
        [round(max(-1, min(samples[slot])) * 127), round(min(1, max(samples[slot])) * 127)]
        for slot in slots
        if slot
    ]
    assert found.tolist() == right
    drawn = draw_waveform(found, 0.5, start=1.2, end=31.0, pixels=7)
    width = (31.0 - 1.2) / 7
    for pixel, (low, high) in enumerate(drawn.tolist()):
        first, last = (1.2 + pixel * width) / 0.5, (1.2 + (pixel + 1) * width) / 0.5
        stretch = found[int(first) : int(np.ceil(last))]
        pad = [0] if np.ceil(last) > len(found) else []
        assert (low, high) == (min([*stretch[:, 0], *pad]), max([*stretch[:, 1], *pad]))
    assert not draw_waveform(found, 0.5, start=900, end=901, pixels=3).any()


def test_sizes_are_bounded() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (900, 1600, 3), dtype=np.uint8)
    small = shrink(noise, (1600, 900), 320)
    assert small.shape == (180, 320, 3)
    assert len(encode_jpeg(small, 14_000)) <= 14_000
    assert shrink(noise[:2, :1500], (1500, 2), 320).shape == (1, 320, 3)
    assert shrink(noise[:50, :40], (80, 50), 320).shape == (
        50,
        80,
        3,
    )  # pixels that are not square; never larger


def test_what_is_not_there_is_refused(tmp_path: Path, ramp: Path) -> None:
    sound = tmp_path / "sound.wav"
    write_media(tmp_path / "sound.mp4", frames=None, samples=np.zeros(RATE, np.float32))
    (tmp_path / "sound.mp4").rename(sound)
    with pytest.raises(NoStream):
        read_pictures(sound)
    with pytest.raises((BrokenMedia, NoStream)):
        read_thumbnail(sound, 0.0)
