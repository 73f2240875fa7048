"""Segments to the batch of a step: order, moments and windows are functions of seed and step, whatever came before.

batches = MomentBatches(segments, config.network, batch_size=48, seed=1)
for windows, frames in prefetch(batches, first=0, stop=1000):
    ...
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.network.frontend import moment_starts
from models.network.geometry import TgdpConfig
from training.data.segments import NUM_MEL_BINS, Segments

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
    """Batches of one random moment per segment, each batch a function of its step.

    An epoch is one shuffled pass in whole batches: no segment comes twice, and what fills no batch is left out of it.

    Args:
        segments: What to draw from.
        config: Geometry of windows and moments.
        batch_size: Segments in a batch, at most their number.
        seed: Of order and moments.
        rows: Which rows of every batch to read, for one of several processes; None for all.

    Raises:
        ValueError: If the network needs another number of mel bins than is stored.
    """

    def __init__(
        self,
        segments: Segments,
        config: TgdpConfig,
        *,
        batch_size: int,
        seed: int,
        rows: slice | None = None,
    ) -> None:
        if config.num_mel_bins != NUM_MEL_BINS:
            raise ValueError(
                f"stored log-mels have {NUM_MEL_BINS} bins, the network needs {config.num_mel_bins}"
            )
        self.segments = segments
        self.config = config
        self.batch_size = min(batch_size, len(segments))
        self.seed = seed
        self.rows = rows or slice(None)
        self._epoch_order: tuple[int, Tensor] = (-1, torch.empty(0))

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Draw the batch of a step. Any thread may call it.

        Args:
            step: Number of the step, from 0.

        Returns:
            Log-mel windows, float32, shape (B, W, M), and frames, uint8, shape (B, H, W, 3), of the same moments.
        """
        rows, moments = self.draw(step)
        starts = moment_starts(
            torch.from_numpy(self.segments.lengths[rows]),
            list(range(self.config.num_moments)),
            num_moments=self.config.num_moments,
            window_frames=self.config.window_frames,
        )[torch.arange(len(rows)), moments]  # (B,)
        windows = self.segments.windows_at(rows.tolist(), starts.tolist(), self.config.window_frames)
        frames = self.segments.frames_at(rows.tolist(), moments.tolist())
        return torch.from_numpy(windows), torch.from_numpy(frames)

    def draw(self, step: int) -> tuple[NDArray[np.int64], Tensor]:
        """Choose the rows and moments of a batch without reading them.

        Args:
            step: Number of the step, from 0.

        Returns:
            Rows of the segments, int64, shape (B,), and the moment of each, int64, shape (B,).
        """
        epoch, position = divmod(step, len(self.segments) // self.batch_size)
        rows = self._order(epoch)[position * self.batch_size : (position + 1) * self.batch_size]
        moments = torch.randint(
            self.config.num_moments, (len(rows),), generator=step_generator(self.seed, MOMENTS, step)
        )
        return rows[self.rows].numpy(), moments[self.rows]

    def _order(self, epoch: int) -> Tensor:
        kept, order = self._epoch_order
        if kept != epoch:
            order = torch.randperm(len(self.segments), generator=step_generator(self.seed, ORDER, epoch))
            self._epoch_order = epoch, order
        return order


def prefetch(
    batches: MomentBatches, first: int, stop: int, *, depth: int = 2
) -> Iterator[tuple[Tensor, Tensor]]:
    """Read batches in threads while earlier ones are used, so that a GPU does not wait for its data.

    Args:
        batches: Where they come from.
        first: Step of the first batch.
        stop: Step after the last one.
        depth: Batches on their way at a time, each in a thread of its own.

    Yields:
        What `batches.at` returns, in the order of steps; what it raises is raised here in its turn.
    """
    with ThreadPoolExecutor(depth, thread_name_prefix="batches") as pool:
        steps = iter(range(first, stop))
        coming = deque(pool.submit(batches.at, step) for step in islice(steps, depth))
        try:
            while coming:
                batch = coming.popleft().result()
                coming.extend(pool.submit(batches.at, step) for step in islice(steps, 1))
                yield batch
        finally:
            for future in coming:
                future.cancel()
