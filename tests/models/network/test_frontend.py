from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torchaudio.compliance import kaldi

from models.inference import onnxruntime
from models.network.frontend import (
    LogMel,
    Pixels,
    cut_windows,
    distinct_windows,
    moment_starts,
    window_starts,
)


@pytest.mark.parametrize("name", ["guitar", "pig"])
def test_log_mel_matches_the_recorded_one(golden_frontend: dict[str, Tensor], name: str) -> None:
    samples = golden_frontend[f"{name}_pcm16"].float() / 32768
    found = LogMel().unnormalised(samples[None], torch.tensor([len(samples)]))[0]
    expected = golden_frontend[f"{name}_log_mel"]
    assert (found - expected).abs().max() < 2e-3
    num_frames = int(golden_frontend[f"{name}_log_mel_frames"])
    assert (found[num_frames:] == 0).all()
    assert (found[:num_frames].abs().sum(dim=1) > 0).all()


class _Graph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.log_mel = LogMel()

    def forward(self, samples: Tensor, lengths: Tensor) -> Tensor:
        return self.log_mel.unnormalised(samples, lengths)


@pytest.mark.filterwarnings("ignore")  # the exporter warns about its own internals
def test_log_mel_matches_on_onnx_runtime(golden_frontend: dict[str, Tensor], tmp_path) -> None:
    from models.network.export import _export

    batch, length = torch.export.Dim("batch", max=64), torch.export.Dim("length", max=10_000_000)
    _export(
        _Graph(),
        (torch.zeros(2, 160_000), torch.tensor([160_000, 8_000])),
        tmp_path / "log_mel.onnx",
        inputs=["samples", "lengths"],
        dynamic_shapes={"samples": {0: batch, 1: length}, "lengths": {0: batch}},
    )
    session = onnxruntime.InferenceSession(tmp_path / "log_mel.onnx", providers=["CPUExecutionProvider"])
    rows = [golden_frontend[f"{name}_pcm16"].numpy().astype(np.float32) / 32768 for name in ("guitar", "pig")]
    samples = np.zeros((2, max(map(len, rows))), np.float32)
    for row, values in zip(samples, rows, strict=True):
        row[: len(values)] = values
    found = session.run(None, {"samples": samples, "lengths": np.array([len(r) for r in rows])})[0]
    for result, name in zip(found, ("guitar", "pig"), strict=True):
        assert np.abs(result - golden_frontend[f"{name}_log_mel"].numpy()).max() < 2e-3


@pytest.mark.parametrize("num_samples", [1, 399, 400, 559, 560, 16_000, 160_000, 164_080, 200_000])
def test_log_mel_matches_torchaudio_at_every_length(num_samples: int) -> None:
    samples = torch.randn(num_samples, generator=torch.Generator().manual_seed(num_samples)) * 0.1
    found = LogMel()(samples[None], torch.tensor([num_samples]))[0]
    expected = torch.zeros(1024, 128)
    heard = samples[: 400 + 1023 * 160] - samples[: 400 + 1023 * 160].mean()
    if num_samples >= 400:
        reference = kaldi.fbank(
            heard[None], htk_compat=True, use_energy=False, window_type="hanning", num_mel_bins=128,
            dither=0.0, frame_shift=10, sample_frequency=16_000,
        )  # fmt: skip
        expected[: len(reference)] = reference
    expected = (expected + 5.081) / 4.4849
    assert (found - expected).abs().max() < 2e-3


def test_padding_and_batch_mates_do_not_change_a_clip() -> None:
    samples = torch.randn(1, 20_000, generator=torch.Generator().manual_seed(1))
    alone = LogMel()(samples, torch.tensor([20_000]))
    padded = torch.cat([samples, torch.full((1, 5_000), 9.0)], dim=1)
    together = LogMel()(torch.cat([padded, torch.randn(1, 25_000)]), torch.tensor([20_000, 25_000]))
    assert (alone[0] - together[0]).abs().max() < 1e-5


def test_windows_are_centred_and_eleven_are_distinct() -> None:
    starts = window_starts()
    assert starts == [min(max(0, 64 * i - 208), 608) for i in range(16)]
    distinct, position = distinct_windows(starts)
    assert len(distinct) == 11
    assert [distinct[p] for p in position] == starts
    log_mel = torch.arange(1024.0).view(1, 1024, 1)
    assert cut_windows(log_mel, torch.tensor([distinct]), 416)[0, 1, :, 0].tolist() == list(range(48, 464))


def test_windows_of_a_whole_segment_are_the_published_ones() -> None:
    lengths = torch.tensor([160_000, 200_000])
    for starts in moment_starts(lengths, list(range(16)), num_moments=16, window_frames=416).tolist():
        assert starts == window_starts()


@given(st.integers(1, 160_000))
def test_windows_follow_the_picture_in_a_segment_of_any_length(length: int) -> None:
    starts = moment_starts(torch.tensor([length]), list(range(16)), num_moments=16, window_frames=416)[
        0
    ].tolist()
    num_frames = round(1024 * length / 160_000 + 1e-9)
    for moment, start in enumerate(starts):
        centred = 64 * moment * length / 160_000 - 208
        assert start == pytest.approx(min(max(0, centred), max(0, num_frames - 416)), abs=1)
    assert starts == sorted(starts)
    # Moments that share a window in a whole segment share it here: 11 of 16 are enough.
    assert len({*starts[:4]}) == len({*starts[13:]}) == 1


def test_every_moment_of_a_short_sound_hears_it() -> None:
    """The published windows of a sound of 2.7 s end in eight that hold padding only."""
    lengths = torch.tensor([43_000])
    log_mel = LogMel()(torch.randn(1, 43_000, generator=torch.Generator().manual_seed(0)), lengths)
    starts = moment_starts(lengths, list(range(16)), num_moments=16, window_frames=416)
    windows = cut_windows(log_mel, starts, 416)[0]
    padding = (windows - 5.081 / 4.4849).abs().amax(dim=(1, 2)) < 1e-3
    assert not padding.any()
    published = cut_windows(log_mel, torch.tensor([window_starts()]), 416)[0]
    assert ((published - 5.081 / 4.4849).abs().amax(dim=(1, 2)) < 1e-3).sum() == 8


@given(st.integers(1, 64), st.integers(64, 2048), st.data())
def test_windows_of_any_geometry_lie_inside_and_follow_their_moments(num_moments, num_frames, data) -> None:
    width = data.draw(st.integers(1, num_frames))
    starts = window_starts(num_moments, num_frames=num_frames, window_frames=width)
    assert len(starts) == num_moments
    assert starts == sorted(starts)
    assert starts[0] >= 0
    assert starts[-1] + width <= num_frames
    stride = num_frames // num_moments
    for moment, start in enumerate(starts):
        centred = stride * moment - width // 2
        assert start == centred or start in (0, num_frames - width)
        assert start <= stride * moment  # a window never begins after its moment
    distinct, position = distinct_windows(starts)
    assert len(set(distinct)) == len(distinct)
    assert [distinct[p] for p in position] == starts


def test_pixels_are_normalised_like_imagenet(golden_frontend: dict[str, Tensor]) -> None:
    frames = golden_frontend["frame_bilinear_u8"][None]
    expected = golden_frontend["frame_bilinear_normalized"].float()
    assert (Pixels()(frames)[0] - expected).abs().max() < 2e-3  # recorded in half precision
