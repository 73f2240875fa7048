"""Windows of the log-mel straight from sound, without the rest of the spectrogram: 416 of 1024 analysis frames.

The matrices are those of the network's own front end, `models.network.frontend.LogMel`, and so are the numbers; as a
matrix product over the frames of the windows alone they cost a fifth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from models.network.frontend import (
    FFT_SIZE,
    FRAME_SAMPLES,
    HOP_SAMPLES,
    LOG_MEL_MEAN,
    LOG_MEL_STD,
    LogMel,
)


class LogMelWindows:
    """Makes windows of the normalised log-mel.

    Args:
        num_mel_bins: Number of mel filters M.
    """

    def __init__(self, num_mel_bins: int = 128) -> None:
        front_end = LogMel(num_mel_bins)
        self._spectrum = front_end.spectrum.squeeze(1).T.contiguous()  # (400, 514)
        self._banks = front_end.banks.T.contiguous()  # (257, M)

    @torch.no_grad()
    def __call__(
        self,
        samples: NDArray[np.float32],
        heard: NDArray[np.int64],
        starts: Sequence[int],
        num_frames: int,
    ) -> NDArray[np.float32]:
        """Make one window of each of some segments.

        Args:
            samples: Mono sound at 16 kHz, float32, shape (B, S).
            heard: Samples until the sound of each row ends, int64, shape (B,).
            starts: First analysis frame of the window of each.
            num_frames: Analysis frames W of a window.

        Returns:
            float32, shape (B, W, M).
        """
        num_samples = (num_frames - 1) * HOP_SAMPLES + FRAME_SAMPLES
        cuts = np.zeros((len(samples), num_samples), np.float32)
        for cut, row, end, start in zip(cuts, samples, heard, starts, strict=True):
            # Frames lose their own mean; without the segment's they would lose digits.
            part = row[start * HOP_SAMPLES : min(start * HOP_SAMPLES + num_samples, end)]
            cut[: len(part)] = part - row[:end].mean()
        frames = torch.from_numpy(cuts).unfold(1, FRAME_SAMPLES, HOP_SAMPLES)  # (B, W, 400)
        power = (frames.reshape(-1, FRAME_SAMPLES) @ self._spectrum).square_()  # (B W, 514)
        half = FFT_SIZE // 2 + 1
        energies = (power[:, :half] + power[:, half:]) @ self._banks
        log_mel = energies.clamp_(min=torch.finfo(torch.float32).eps).log_().view(*frames.shape[:2], -1)
        num_real = torch.from_numpy((heard - FRAME_SAMPLES) // HOP_SAMPLES + 1) - torch.tensor(starts)
        is_empty = torch.arange(num_frames) >= num_real.unsqueeze(1)  # (B, W)
        log_mel.masked_fill_(is_empty.unsqueeze(2), 0.0)
        return np.asarray(log_mel.sub_(LOG_MEL_MEAN).div_(LOG_MEL_STD).numpy())
