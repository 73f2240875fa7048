"""Sound: every channel counts, every sample stands at its own time, and mid-file reads give the same samples."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from models.media.clip import BrokenMedia, ClipSpec, DecodeLimits, TooComplex, decode_segments
from models.media.sound import _Run
from tests.support.media_files import (
    AudioTrack,
    VideoTrack,
    every,
    make_tone,
    measure_tone,
    resample_plainly,
    write_media,
)

SPEC = ClipSpec()
RATE = 16000


def decode_sound(path: Path) -> NDArray[np.float32]:
    samples = decode_segments(path, SPEC).clips[0].samples
    assert samples is not None
    assert samples.dtype == np.float32
    return samples


def write_wav(
    path: Path, content: bytes, *, rate: int = RATE, bits: int = 16, kind: int = 1, channels: int = 1
) -> Path:
    width = channels * bits // 8
    header = struct.pack("<HHIIHH", kind, channels, rate, (rate * width) & 0xFFFFFFFF, width, bits)
    chunks = (
        b"WAVEfmt " + struct.pack("<I", 16) + header + b"data" + struct.pack("<I", len(content)) + content
    )
    path.write_bytes(b"RIFF" + struct.pack("<I", len(chunks)) + chunks)
    return path


@pytest.mark.parametrize(
    ("layout", "codec", "suffix"),
    [
        ("mono", "pcm_s16le", "wav"),
        ("stereo", "aac", "m4a"),
        ("2.1", "flac", "flac"),
        ("quad", "pcm_f32le", "wav"),
        ("5.1", "flac", "flac"),
        ("5.1(side)", "aac", "mp4"),
        ("7.1", "libopus", "opus"),  # planar and 8 channels: the kind on which PyAV's own arrays crash
        ("7.1", "flac", "flac"),
        ("16 channels", "pcm_s16le", "wav"),
    ],
)
def test_every_channel_counts_the_same(layout: str, codec: str, suffix: str, tmp_path: Path) -> None:
    num_channels = av.AudioLayout(layout).nb_channels
    hertz = [
        40.0 + 40 * channel for channel in range(num_channels)
    ]  # low: the bass channel of 5.1 carries no more
    audio = AudioTrack(samples=make_tone(3, 48000, hertz), layout=layout, codec=codec)
    path = write_media(
        tmp_path / f"sound.{suffix}", audio=audio, container_format="ogg" if suffix == "opus" else None
    )
    samples = decode_sound(path)[RATE : 2 * RATE]
    heard = [measure_tone(samples, RATE, frequency) * num_channels for frequency in hertz]
    # Lossless to a percent; AAC and Opus are free to change a tone by a fifth.
    tolerance = 0.1 if codec in ("aac", "libopus") else 0.005
    np.testing.assert_allclose(heard, 0.5, atol=tolerance)


def test_channels_in_an_order_of_their_own_do_not_end_the_process(tmp_path: Path) -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        return name + struct.pack(">q", len(content)) + content

    tones = (
        0.5 * 32767 * np.sin(2 * np.pi * np.array([300, 700]) * np.arange(96000)[:, None] / 48000)
    ).astype(">i2")
    right_then_left = b"".join(struct.pack(">IIfff", label, 0, 0, 0, 0) for label in (2, 1))
    path = tmp_path / "order.caf"
    path.write_bytes(
        b"caff"
        + struct.pack(">HH", 1, 0)
        + chunk(b"desc", struct.pack(">d4sIIIII", 48000, b"lpcm", 0, 4, 1, 2, 16))
        + chunk(b"chan", struct.pack(">III", 0, 0, 2) + right_then_left)
        + chunk(b"data", struct.pack(">I", 0) + tones.tobytes())
    )
    ours = "import sys; from models.media.clip import *; print(len(decode_clip(sys.argv[1], ClipSpec()).samples))"
    run = subprocess.run([sys.executable, "-c", ours, path], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout) == (0, "32000\n"), run.stderr
    samples = decode_sound(path)
    assert measure_tone(samples, RATE, 300) == pytest.approx(0.25, abs=0.005)
    assert measure_tone(samples, RATE, 700) == pytest.approx(0.25, abs=0.005)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 44099, 48000, 96000])
def test_resampling_is_that_of_one_go(rate: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stored = (rng.standard_normal(3 * rate) * 3000).astype("<i2")
    path = write_wav(tmp_path / "noise.wav", stored.tobytes(), rate=rate)
    expected = resample_plainly(stored.astype(np.float32) / 32768, rate)
    samples = decode_sound(path)
    assert abs(len(samples) - len(expected)) <= 1
    np.testing.assert_allclose(samples[: len(expected)], expected[: len(samples)], atol=1e-6)


def test_a_late_start_stays_in_place(tmp_path: Path) -> None:
    audio = AudioTrack(samples=make_tone(4, 48000, [500, 500]), start=3.0, codec="pcm_s16le")
    path = write_media(tmp_path / "late.mkv", video=VideoTrack(times=every(8, 25)), audio=audio)
    samples = decode_sound(path)
    assert len(samples) == pytest.approx(8 * RATE, abs=16)  # as long as the picture
    assert not samples[: 3 * RATE - 32].any()
    assert not samples[7 * RATE + 32 :].any()
    # To 1 ms, the clock of Matroska.
    assert np.argmax(np.abs(samples) > 0.01) == pytest.approx(3 * RATE, abs=20)
    assert measure_tone(samples[3 * RATE + 100 : 7 * RATE - 100], RATE, 500) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_late_start_in_aac_stays_in_place(suffix: str, tmp_path: Path) -> None:
    audio = AudioTrack(samples=make_tone(4, 48000, [500, 500]), start=3.0)
    path = write_media(tmp_path / f"late.{suffix}", video=VideoTrack(times=every(8, 25)), audio=audio)
    samples = decode_sound(path)
    # AAC smears an onset over a frame of 21 ms.
    assert np.argmax(np.abs(samples) > 0.1) == pytest.approx(3 * RATE, abs=0.022 * RATE)


def test_a_segment_before_the_sound_has_none(tmp_path: Path) -> None:
    audio = AudioTrack(samples=make_tone(4, 48000, [500, 500]), start=13.0)
    path = write_media(tmp_path / "late.mp4", video=VideoTrack(times=every(18, 25)), audio=audio)
    first, second = decode_segments(path, SPEC).clips
    assert first.samples is None
    assert second.samples is not None
    assert not second.samples[: int(2.9 * RATE)].any()


def test_a_gap_stays_as_silence(tmp_path: Path) -> None:
    audio = AudioTrack(samples=make_tone(6, 48000, [500, 500]), codec="pcm_s16le", left_out=(2.0, 3.5))
    samples = decode_sound(write_media(tmp_path / "gap.mkv", audio=audio))
    assert len(samples) == pytest.approx(6 * RATE, abs=16)
    silent = np.flatnonzero(np.abs(samples).reshape(-1, 100).max(axis=1) < 1e-3)
    assert silent[0] * 100 == pytest.approx(2.0 * RATE, abs=0.03 * RATE)
    assert silent[-1] * 100 == pytest.approx(3.5 * RATE, abs=0.03 * RATE)
    before, after = samples[: 2 * RATE - 400], samples[int(3.53 * RATE) :]
    assert measure_tone(before, RATE, 500) == pytest.approx(0.5, abs=0.01)
    assert measure_tone(after, RATE, 500) == pytest.approx(0.5, abs=0.01)


def test_sound_that_overlaps_is_heard_once(tmp_path: Path) -> None:
    parts = []
    for start in (0.0, 1.0):  # the second second comes twice
        audio = AudioTrack(samples=make_tone(2, 48000, [500, 500]), start=start, codec="mp2")
        parts.append(write_media(tmp_path / f"{start}.ts", audio=audio).read_bytes())
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(parts))
    samples = decode_sound(path)
    assert len(samples) == pytest.approx(3 * RATE, abs=0.05 * RATE)
    assert measure_tone(samples[: RATE * 2], RATE, 500) == pytest.approx(0.5, abs=0.02)


def test_the_rate_may_change(tmp_path: Path) -> None:
    parts = []
    for start, rate in ((0.0, 48000), (2.0, 32000)):
        audio = AudioTrack(samples=make_tone(2, rate, [500, 500]), start=start, rate=rate, codec="mp2")
        parts.append(write_media(tmp_path / f"{rate}.ts", audio=audio).read_bytes())
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(parts))
    samples = decode_sound(path)
    assert len(samples) == pytest.approx(4 * RATE, abs=0.1 * RATE)
    for start in (0.2, 2.3):
        part = samples[int(start * RATE) : int((start + 1.5) * RATE)]
        assert measure_tone(part, RATE, 500) == pytest.approx(0.5, abs=0.02)


def test_what_is_not_a_number_is_silence_and_what_is_too_loud_is_cut(tmp_path: Path) -> None:
    values = make_tone(2, RATE, [500])[0]
    values[8000:8100] = np.nan
    values[16000] = np.inf
    values[24000] = -1e38
    path = write_wav(tmp_path / "odd.wav", values.astype("<f4").tobytes(), bits=32, kind=3)
    samples = decode_sound(path)
    assert np.isfinite(samples).all()
    assert not samples[8000:8100].any()
    assert (samples[16000], samples[24000]) == (1000, -1000)
    np.testing.assert_array_equal(samples[:8000], values[:8000])


def test_sound_under_25_ms_is_none(tmp_path: Path) -> None:
    with pytest.raises(BrokenMedia, match="nothing in it decodes"):
        decode_segments(write_wav(tmp_path / "399.wav", bytes(2 * 399)), SPEC)
    assert len(decode_sound(write_wav(tmp_path / "400.wav", bytes(2 * 400)))) == 400


def test_sound_that_ends_early_is_followed_by_silence_to_the_end_of_the_segment(tmp_path: Path) -> None:
    """Samples span the segment, so that the sound of a moment is found by its time."""
    audio = AudioTrack(samples=make_tone(12.5, 48000, [500, 500]), codec="pcm_s16le")
    path = write_media(tmp_path / "short.mkv", video=VideoTrack(times=every(35, 5)), audio=audio)
    clips = decode_segments(path, SPEC).clips
    lengths = [None if clip.samples is None else len(clip.samples) for clip in clips]
    assert lengths == [10 * RATE, 10 * RATE, None, None]
    assert np.abs(clips[1].samples[: int(2.5 * RATE) - 32]).max() > 0.1
    assert not clips[1].samples[int(2.5 * RATE) + 32 :].any()


def test_limits_of_sound(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "fast.wav", bytes(4000), rate=900_000)
    with pytest.raises(TooComplex, match="sound may have at most 768000 Hz, this one has 900000"):
        decode_segments(path, SPEC)
    quad = AudioTrack(samples=make_tone(1, 48000, [100] * 4), layout="quad", codec="pcm_s16le")
    path = write_media(tmp_path / "quad.wav", audio=quad)
    with pytest.raises(TooComplex, match="sound may have at most 3 channels, this one has 4"):
        decode_segments(path, SPEC, limits=DecodeLimits(max_channels=3))


@pytest.mark.parametrize("late", [[0, 0, 0], [0, 20, -20], [0, 0, 1500, 0], [0, 1500, -1500]])
def test_a_run_settles_where_most_timestamps_put_it(late: list[int]) -> None:
    stored: list[tuple[int, int]] = []
    run = _Run(48000, RATE, lambda start, samples: stored.append((start, len(samples))))
    for number, samples_late in enumerate(late):
        run.append(np.zeros(960, np.float32), 30_000 + 960 * number + samples_late)
    run.finish()
    start = stored[0][0]
    # Within the container's rounding of most; where no two agree, within that of one of them.
    assert min(abs(3 * start - 30_000 - samples_late) for samples_late in late) <= 48
    assert sum(length for _, length in stored) == 320 * len(late)
