"""Stretches of files as files: what is copied, what is encoded again, and what a WAV says of itself."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from models.media.clip import NoStream, NotInMedia
from models.media.cut import cut_segment
from models.media.wave import write_wave
from tests.support.media_files import (
    AudioTrack,
    VideoTrack,
    every,
    make_tone,
    measure_tone,
    read_number,
    write_media,
)

RATE = 48_000
TONE = AudioTrack(samples=make_tone(6, RATE, [440, 880]))


def read_pictures(content: bytes) -> list[tuple[float, int]]:
    """When each picture of a file is shown, and its number."""
    with av.open(io.BytesIO(content)) as container:
        return [
            (frame.time, read_number(frame.to_ndarray(format="rgb24"))) for frame in container.decode(video=0)
        ]


def read_sound(content: bytes) -> tuple[np.ndarray[Any, Any], float, dict[str, str]]:
    """Samples (S, C) as they are stored, when they begin, and what the file says of itself."""
    with av.open(io.BytesIO(content)) as container:
        frames = list(container.decode(audio=0))
        channels = frames[0].layout.nb_channels
        blocks = [
            frame.to_ndarray().T if frame.format.is_planar else frame.to_ndarray().reshape(-1, channels)
            for frame in frames
        ]
        return np.concatenate(blocks), float(frames[0].time or 0), dict(container.metadata)


def read_chunks(content: bytes) -> dict[bytes, bytes]:
    """The chunks of a RIFF file by their names."""
    assert struct.unpack_from("<4sI4s", content) == (b"RIFF", len(content) - 8, b"WAVE")
    place, found = 12, {}
    while place < len(content):
        name, size = struct.unpack_from("<4sI", content, place)
        found[name] = content[place + 8 : place + 8 + size]
        place += 8 + size + size % 2
    return found


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_picture_is_copied_from_the_key_frame_before(tmp_path: Path, suffix: str) -> None:
    video = VideoTrack(times=every(6, 25), gop=25, options={"bf": "2", "sc_threshold": "0"})
    path = write_media(tmp_path / f"a{suffix}", video=video, audio=TONE)
    segment = cut_segment(path, 2.5, 4.0)
    assert (segment.is_copy, segment.suffix) == (True, ".mp4")
    assert segment.start_seconds == pytest.approx(2.0, abs=0.05)
    assert segment.end_seconds == pytest.approx(4.0, abs=0.09)
    pictures = read_pictures(segment.content)
    assert [number for _, number in pictures] == list(range(50, 50 + len(pictures)))
    assert [time for time, _ in pictures] == pytest.approx([i / 25 for i in range(len(pictures))], abs=0.002)
    with av.open(io.BytesIO(segment.content)) as container:
        stream = container.streams.video[0]
        assert float(stream.duration * stream.time_base) == pytest.approx(len(pictures) / 25, abs=0.002)
    samples, start, _ = read_sound(segment.content)
    assert 0 <= start < 0.03
    assert len(samples) / RATE == pytest.approx(segment.end_seconds - segment.start_seconds, abs=0.1)
    assert measure_tone(samples[RATE // 2 : RATE, 0], RATE, 440) == pytest.approx(0.5, abs=0.05)


def test_exact_begins_at_the_very_frame(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mp4", video=VideoTrack(times=every(6, 25), gop=50), audio=TONE)
    segment = cut_segment(path, 2.6, 4.0, exact=True)
    assert (segment.is_copy, segment.suffix, segment.start_seconds) == (False, ".mp4", 2.6)
    assert segment.end_seconds == pytest.approx(4.0, abs=0.041)
    pictures = read_pictures(segment.content)
    assert [number for _, number in pictures] == list(range(65, 100))
    assert [time for time, _ in pictures] == pytest.approx([i / 25 for i in range(35)], abs=0.001)
    samples, start, _ = read_sound(segment.content)
    assert abs(start) < 0.03
    assert len(samples) / RATE == pytest.approx(1.4, abs=0.05)
    assert measure_tone(samples[RATE // 2 : RATE, 1], RATE, 880) == pytest.approx(0.5, abs=0.05)


def test_codecs_that_no_container_here_takes_are_encoded_again(tmp_path: Path) -> None:
    video = VideoTrack(times=every(3, 25), codec="mpeg2video", gop=10)
    segment = cut_segment(write_media(tmp_path / "a.mpg", video=video), 1.0, 2.0)
    assert (segment.is_copy, segment.suffix) == (False, ".mp4")
    assert len(read_pictures(segment.content)) == pytest.approx(25, abs=1)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.float32])
def test_samples_of_sound_are_those_of_the_file(tmp_path: Path, kind: type) -> None:
    generator = np.random.default_rng(1)
    if kind is np.float32:
        samples = generator.standard_normal((2 * RATE, 3)).astype(np.float32)
    else:
        facts = np.iinfo(kind)
        samples = generator.integers(facts.min, facts.max, (2 * RATE, 3), kind)
    if kind is np.int32:
        samples &= ~0xFF  # 24 bits
    path = tmp_path / "a.wav"
    path.write_bytes(write_wave(samples, RATE, time_reference=3600 * RATE))
    segment = cut_segment(path, 0.51, 1.7, moment=1.01)
    first, stop = round(0.51 * RATE), round(1.7 * RATE)
    found, _, said = read_sound(segment.content)
    assert found.dtype == kind
    np.testing.assert_array_equal(found, samples[first:stop])
    assert said["time_reference"] == str(3600 * RATE + first)
    chunks = read_chunks(segment.content)
    assert struct.unpack("<III4sIII", chunks[b"cue "]) == (1, 1, RATE // 2, b"data", 0, 0, RATE // 2)
    assert chunks[b"LIST"][:16] == b"adtllabl" + struct.pack("<II", 16, 1)
    assert chunks[b"LIST"][16:] == b"best moment\0"


def test_sound_of_a_lossy_file_becomes_24_bits(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mp4", video=VideoTrack(times=every(6, 25)), audio=TONE)
    segment = cut_segment(path, 2.0, 3.0, modality="audio")
    assert struct.unpack_from("<HHIIHH", read_chunks(segment.content)[b"fmt "])[5] == 24
    samples, _, said = read_sound(segment.content)
    assert samples.shape == (RATE, 2)
    whole, start, _ = read_sound(path.read_bytes())
    assert start == 0
    np.testing.assert_allclose(samples / 2.0**31, whole[2 * RATE : 3 * RATE], atol=1e-4)
    assert said["time_reference"] == str(2 * RATE)
    assert b"cue " not in read_chunks(segment.content)


def test_the_end_of_the_file_is_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(write_wave(np.ones((RATE, 1), np.int16), RATE, time_reference=0))
    assert cut_segment(path, 0.5, 9.0).end_seconds == 1.0


@pytest.mark.parametrize(
    ("start", "end"), [(2, 3), (1, 1), (0.5, 0.2), (0, 601), (-1, 1), (0.5, 0.50001), (0, float("nan"))]
)
def test_stretches_that_are_none(tmp_path: Path, start: float, end: float) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(write_wave(np.ones((RATE, 1), np.int16), RATE, time_reference=0))
    with pytest.raises(NotInMedia):
        cut_segment(path, start, end)


def test_what_the_file_lacks(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(write_wave(np.ones((RATE, 1), np.int16), RATE, time_reference=0))
    with pytest.raises(NoStream):
        cut_segment(path, 0, 1, modality="video")


@pytest.mark.parametrize("exact", [False, True])
def test_a_turned_picture_stays_turned(tmp_path: Path, exact: bool) -> None:
    path = write_media(tmp_path / "a.mp4", video=VideoTrack(times=every(2, 25)))
    with av.open(str(path)) as source, av.open(str(tmp_path / "turned.mp4"), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        stream.set_display_rotation(-90)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    turned = tmp_path / "turned.mp4"
    content = cut_segment(turned, 1.0, 2.0, exact=exact).content
    with av.open(str(turned)) as source, av.open(io.BytesIO(content)) as found:
        turns = [next(one.decode(video=0)).rotation for one in (source, found)]
    assert turns[0] == turns[1] != 0
