"""Segments to the batch of a step: order, moments and windows are functions of seed and step, whatever came before."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.frontend import NUM_LOG_MEL_FRAMES, LogMel, cut_windows, moment_starts
from models.geometry import TgdpConfig
from training.segments import PairedSegments

ORDER, MOMENTS, MASKS, AUGMENTATION = range(4)
"""Streams of random numbers of a run (see `step_generator`)."""


def step_generator(seed: int, stream: int, step: int) -> torch.Generator:
    """Random numbers of one step of one run: whoever asks again gets the same ones, whatever was drawn before.

    Args:
        seed: Seed of the run.
        stream: Purpose of the numbers, so that two purposes never share them.
        step: Number of the step.

    Returns:
        A generator on the CPU.
    """
    state = np.random.SeedSequence([seed, stream, step]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))


class MomentBatches:
    """Batches of one random moment per segment, every segment once an epoch, each batch a function of its step.

    The log-mel of every segment is computed once by the network's own front end and kept (512 KB a segment).

    Args:
        segments: What to draw from.
        config: Geometry of windows and moments.
        batch_size: Segments in a batch, at most their number.
        seed: Of order and moments.
    """

    def __init__(self, segments: PairedSegments, config: TgdpConfig, *, batch_size: int, seed: int) -> None:
        self.segments = segments
        self.config = config
        self.batch_size = min(batch_size, len(segments))
        self.seed = seed
        self.starts = moment_starts(
            torch.from_numpy(segments.lengths),
            list(range(config.num_moments)),
            num_moments=config.num_moments,
            window_frames=config.window_frames,
        )  # (N, T)
        self.log_mel = self._log_mels()

    @torch.no_grad()
    def _log_mels(self) -> Tensor:
        front_end = LogMel(self.config.num_mel_bins)
        log_mel = torch.empty(len(self.segments), NUM_LOG_MEL_FRAMES, self.config.num_mel_bins)
        for first in range(0, len(self.segments), 32):
            rows = slice(first, first + 32)
            samples = torch.from_numpy(np.array(self.segments.samples[rows]))
            log_mel[rows] = front_end(samples, torch.from_numpy(self.segments.lengths[rows]))
        return log_mel

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Draw the batch of a step.

        Args:
            step: Number of the step, from 0.

        Returns:
            Log-mel windows, float32, shape (B, W, M), and frames, uint8, shape (B, H, W, 3), of the same moments.
        """
        epoch, position = divmod(step, len(self.segments) // self.batch_size)
        order = torch.randperm(len(self.segments), generator=step_generator(self.seed, ORDER, epoch))
        rows = order[position * self.batch_size : (position + 1) * self.batch_size]
        moments = torch.randint(
            self.config.num_moments, (len(rows),), generator=step_generator(self.seed, MOMENTS, step)
        )
        starts = self.starts[rows, moments].unsqueeze(1)
        windows = cut_windows(self.log_mel[rows], starts, self.config.window_frames).squeeze(1)
        frames = np.stack(
            [self.segments.frames[row, moment] for row, moment in zip(rows, moments, strict=True)]
        )
        return windows, torch.from_numpy(frames)
