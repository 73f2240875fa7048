"""Random changes of a training batch: SpecAugment on the sound, crop and mirror on the picture. Each is off by default.

What a change hides or moves must not be what tells clips apart: mirror a picture only if left and right carry nothing.
All numbers come from a generator that is a function of seed and step, drawn on the CPU for the whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.draws import Draws


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How much a batch may change."""

    max_time_frames: int = 0
    """Longest stretch of a window that is blanked, in analysis frames of 10 ms (SpecAugment); 0 is off."""
    max_mel_bins: int = 0
    """Broadest band that is blanked, in mel bins (SpecAugment); 0 is off."""
    min_crop_area: float = 1.0
    """Smallest share of a frame's area that a crop keeps (RandomResizedCrop); 1 is off."""
    max_crop_aspect: float = 4 / 3
    """Largest ratio of a crop's sides, either way."""
    mirror_share: float = 0.0
    """Share of the frames that are mirrored left to right."""

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        if not 0 < self.min_crop_area <= 1 or self.max_crop_aspect < 1 or not 0 <= self.mirror_share <= 1:
            raise ValueError(
                "min_crop_area must be in (0, 1], max_crop_aspect at least 1 and mirror_share in [0, 1], got "
                f"{self.min_crop_area}, {self.max_crop_aspect} and {self.mirror_share}"
            )
        if self.max_time_frames < 0 or self.max_mel_bins < 0:
            raise ValueError(
                f"masks must not be negative, got {self.max_time_frames} frames and {self.max_mel_bins} bins"
            )


def augment(windows: Tensor, frames: Tensor, how: Augmentation, draws: Draws) -> tuple[Tensor, Tensor]:
    """Change a batch at random.

    Args:
        windows: Normalised log-mel windows, shape (B, W, M).
        frames: Normalised frames, float, shape (B, 3, H, W).
        how: How much.
        draws: Where the randomness comes from.

    Returns:
        Windows and frames of the same shapes; the inputs are not changed.
    """
    if how.max_time_frames:
        windows = blank_stretch(windows, 1, how.max_time_frames, draws)
    if how.max_mel_bins:
        windows = blank_stretch(windows, 2, how.max_mel_bins, draws)
    if how.mirror_share:
        is_mirrored = draws.uniform(1).to(frames.device) < how.mirror_share  # (B, 1)
        frames = torch.where(is_mirrored[:, :, None, None], frames.flip(3), frames)
    if how.min_crop_area < 1:
        frames = crop_and_resize(frames, random_boxes(how, draws).to(frames.device))
    return windows, frames


def blank_stretch(windows: Tensor, axis: int, max_length: int, draws: Draws) -> Tensor:
    """Set one random stretch of each window to the mean of the training data, 0 (SpecAugment, arXiv 1904.08779).

    The length is uniform in [0, max_length], the place uniform where it fits.

    Args:
        windows: Shape (B, W, M).
        axis: 1 for time, 2 for mel bins.
        max_length: Longest stretch.
        draws: Where the randomness comes from.

    Returns:
        Shape (B, W, M).
    """
    size = windows.shape[axis]
    length, place = draws.uniform(2).to(windows.device).unbind(1)  # (B,) each
    lengths = (length * (min(max_length, size) + 1)).floor()
    starts = (place * (size - lengths + 1)).floor()
    positions = torch.arange(size, device=windows.device)
    is_blank = (positions >= starts[:, None]) & (positions < (starts + lengths)[:, None])  # (B, size)
    return windows.masked_fill(is_blank.unsqueeze(2 if axis == 1 else 1), 0.0)


def random_boxes(how: Augmentation, draws: Draws) -> Tensor:
    """Draw crops: area uniform in [min_crop_area, 1], log of the aspect uniform, position uniform inside the frame.

    Args:
        how: Limits.
        draws: Where the randomness comes from.

    Returns:
        Left, top, width and height as shares of the frame, float32, shape (B, 4).
    """
    area, aspect, left, top = draws.uniform(4).unbind(1)
    area = how.min_crop_area + area * (1 - how.min_crop_area)
    ratio = how.max_crop_aspect ** (2 * aspect - 1)
    width, height = (area * ratio).sqrt().clamp(max=1.0), (area / ratio).sqrt().clamp(max=1.0)
    return torch.stack([left * (1 - width), top * (1 - height), width, height], dim=1)


def crop_and_resize(frames: Tensor, boxes: Tensor) -> Tensor:
    """Cut a box out of each frame and enlarge it to the frame's size, bilinear.

    Args:
        frames: Shape (B, C, H, W).
        boxes: Left, top, width and height as shares of the frame, shape (B, 4).

    Returns:
        Shape (B, C, H, W).
    """
    left, top, width, height = boxes.to(frames.dtype).unbind(1)
    zero = torch.zeros_like(left)
    rows = [
        torch.stack([width, zero, 2 * left + width - 1], dim=1),
        torch.stack([zero, height, 2 * top + height - 1], dim=1),
    ]
    grid = F.affine_grid(torch.stack(rows, dim=1), list(frames.shape), align_corners=False)
    return F.grid_sample(frames, grid, mode="bilinear", padding_mode="border", align_corners=False)
