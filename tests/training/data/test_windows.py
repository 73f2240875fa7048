from __future__ import annotations

import numpy as np
import pytest
import torch

from models.network.frontend import LogMel
from training.data.windows import LogMelWindows


@pytest.mark.parametrize("num_mel_bins", [128, 64])
def test_windows_are_cut_from_the_log_mel_of_the_network(num_mel_bins: int) -> None:
    """The front end has tests of its own. Sums are made in another order: 1e-4 of a standard deviation at most."""
    rng = np.random.default_rng(0)
    lengths = np.array([160_000, 160_000, 80_000, 50_001, 399, 400])
    samples = np.zeros((6, 160_000), np.float32)
    for row, length in zip(samples, lengths, strict=True):
        row[:length] = 0.1 * rng.standard_normal(length) + 0.3
    samples[1, 3000:90_000] = 0.3  # silence with an offset
    expected = LogMel(num_mel_bins)(torch.from_numpy(samples), torch.from_numpy(lengths)).numpy()
    windows = LogMelWindows(num_mel_bins)
    for starts in ([0, 100, 96, 0, 0, 0], [608, 608, 300, 200, 1, 0]):
        found = windows(samples, lengths, starts, 416)
        assert found.shape == (6, 416, num_mel_bins)
        assert found.dtype == np.float32
        for window, log_mel, start in zip(found, expected, starts, strict=True):
            assert np.abs(window - log_mel[start : start + 416]).max() < 1e-4
