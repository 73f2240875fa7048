from __future__ import annotations

import io

import av
import numpy as np
import pytest
from PIL import Image

from models.media.clip import Clip
from training.data.packing import (
    BrokenSample,
    Packing,
    decode_flac,
    decode_jpeg,
    encode_flac,
    encode_jpeg,
    member_names,
    pack_segment,
)

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("bits", [16, 24])
@pytest.mark.parametrize("num_samples", [400, 4608, 50_001])
def test_sound_comes_back_to_half_a_step(bits, num_samples: int) -> None:
    samples = RANDOM.uniform(-1, 1, num_samples).astype(np.float32)
    samples[0] = -1
    decoded = decode_flac(encode_flac(samples, Packing(sample_bits=bits)))
    assert decoded.dtype == np.float32
    assert decoded.shape == samples.shape
    assert np.abs(decoded - samples).max() <= 2.0 ** -(bits - 1) * (0.5 if samples.max() < 0.9999 else 1)


@pytest.mark.parametrize("bits", [16, 24])
def test_the_file_says_how_many_bits_it_has(bits) -> None:
    data = encode_flac(np.zeros(1000, np.float32), Packing(sample_bits=bits))
    stream_info = int.from_bytes(
        data[8 + 10 : 8 + 18]
    )  # FLAC format: rate 20 bits, channels 3, bits 5, samples 36
    assert data[:4] == b"fLaC"
    assert stream_info >> 44 == 16_000
    assert (stream_info >> 41) & 7 == 0  # one channel
    assert ((stream_info >> 36) & 31) + 1 == bits
    assert stream_info & (2**36 - 1) == 1000


def test_frames_come_back_nearly(segments) -> None:
    frame = np.array(segments.frames[0, 0])
    decoded = decode_jpeg(encode_jpeg(frame, 95))
    assert decoded.shape == frame.shape
    assert np.square(decoded.astype(float) - frame).mean() < 255**2 / 10**3.5  # 35 dB


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: b"not one", lambda data: data[: len(data) // 2]]
)
def test_damaged_members_are_errors(damage) -> None:
    frame = RANDOM.integers(0, 256, (64, 64, 3), np.uint8)
    with pytest.raises(BrokenSample, match="a frame does not decode"):
        decode_jpeg(damage(encode_jpeg(frame, 95)))
    with pytest.raises(BrokenSample, match="the sound does not decode"):
        decode_flac(damage(encode_flac(RANDOM.uniform(-1, 1, 9999).astype(np.float32), Packing())))


def test_a_frame_of_another_format_is_an_error() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    with pytest.raises(BrokenSample, match="a frame does not decode"):
        decode_jpeg(buffer.getvalue())


def test_sound_of_two_channels_is_an_error() -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=16_000)
        stream.layout, stream.format = "stereo", "s16"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 2000), np.int16), format="s16", layout="stereo")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(BrokenSample, match="the sound must be mono, it is stereo"):
        decode_flac(buffer.getvalue())


def test_loud_sound_is_turned_down_and_its_gain_kept() -> None:
    samples = np.array([0.5, -2.5, 1.0] * 200, np.float32)
    clip = Clip(
        start_seconds=10.0,
        end_seconds=10.0375,
        frames=np.zeros((3, 16, 16, 3), np.uint8),
        frame_times_seconds=np.zeros(3),
        samples=samples,
        num_heard=500,
    )
    packed = pack_segment(clip, Packing(), max_samples=590)
    assert packed.facts == {
        "start_seconds": 10.0, "end_seconds": 10.0375, "num_samples": 590, "num_heard": 500, "gain": 2.5,
    }  # fmt: skip
    assert sorted([*packed.members, "json"]) == member_names(3)
    heard = decode_flac(packed.members["flac"]) * packed.facts["gain"]
    assert np.abs(heard - samples[:590]).max() < 1e-6


@pytest.mark.parametrize(("name", "value"), [("jpeg_quality", 0), ("jpeg_quality", 96), ("sample_bits", 8)])
def test_a_packing_that_is_none_is_refused(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be .*, got {value}"):
        Packing(**{name: value})
