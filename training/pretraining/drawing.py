"""Pictures of what a network sees, rebuilds and attends to: pure functions of tensors.

Pictures are (B, C, H, W) in the network's own units, with the patches where the network has them; images are RGB in
[0, 1], (B, 3, H, W). `lay_out` puts images into one big one, a row for each clip.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from models.network.frontend import IMAGE_MEAN, IMAGE_STD
from models.network.geometry import Modality
from training.pretraining.losses import cut_patches

GREY = 0.5
"""What stands where a patch is hidden."""
HEAT = ((0.0, 0.0, 0.02), (0.34, 0.06, 0.43), (0.73, 0.21, 0.33), (0.98, 0.56, 0.04), (0.99, 1.0, 0.64))
"""Colours from 0 to 1, equal steps."""
HEAT_SHARE = 0.6
"""Share of the colour where attention is laid over an image."""
LOG_MEL_RANGE = (-2.5, 2.5)
"""Normalised log-mel from silence to very loud."""
GAP = 4
"""Pixels between two images."""


def patch_grid(picture_shape: Sequence[int], patch_size: int) -> tuple[int, int]:
    """Count the patches of a picture.

    Args:
        picture_shape: Ends with H, W.
        patch_size: Side P of a patch.

    Returns:
        Rows and columns.
    """
    return picture_shape[-2] // patch_size, picture_shape[-1] // patch_size


def paste_patches(patches: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """Put patches back together: the inverse of `training.pretraining.losses.cut_patches`.

    Args:
        patches: Values ordered (top, left, channel), shape (B, L, P * P * C).
        grid: Rows and columns of patches.
        patch_size: Side P.

    Returns:
        Shape (B, C, H, W).
    """
    rows, columns = grid
    parts = patches.reshape(len(patches), rows, columns, patch_size, patch_size, -1)
    return parts.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), -1, rows * patch_size, columns * patch_size)


def spread_patches(values: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """Give every pixel the value of its patch.

    Args:
        values: One number per patch, shape (B, L).
        grid: Rows and columns of patches.
        patch_size: Side P.

    Returns:
        Shape (B, 1, H, W).
    """
    by_patch = values.reshape(-1, 1, *grid)
    return by_patch.repeat_interleave(patch_size, dim=2).repeat_interleave(patch_size, dim=3)


def heat_colours(values: Tensor) -> Tensor:
    """Turn numbers into colours, dark to bright.

    Args:
        values: In [0, 1], others are clamped; shape (B, 1, H, W).

    Returns:
        Shape (B, 3, H, W).
    """
    colours = torch.tensor(HEAT, dtype=values.dtype, device=values.device)
    place = values.clamp(0, 1).squeeze(1) * (len(HEAT) - 1)
    below = place.floor().long().clamp(max=len(HEAT) - 2)  # (B, H, W)
    share = (place - below).unsqueeze(3)
    mixed = colours[below] * (1 - share) + colours[below + 1] * share  # (B, H, W, 3)
    return mixed.permute(0, 3, 1, 2)


def to_images(pictures: Tensor, modality: Modality) -> Tensor:
    """Show pictures in colours: frames without their normalisation, log-mel as heat.

    Args:
        pictures: Normalised frames (B, 3, H, W), or normalised log-mel (B, 1, M, W).
        modality: Which of the two.

    Returns:
        Images; the rows stay where they are, so the lowest pitch is the top row.
    """
    if modality == "video":
        mean, std = pictures.new_tensor(IMAGE_MEAN), pictures.new_tensor(IMAGE_STD)
        return (pictures * std.view(3, 1, 1) + mean.view(3, 1, 1)).clamp(0, 1)
    low, high = LOG_MEL_RANGE
    return heat_colours((pictures - low) / (high - low))


def draw_hidden(images: Tensor, visible: Tensor, patch_size: int) -> Tensor:
    """Grey out the patches that are not visible.

    Args:
        images: Shape (B, 3, H, W).
        visible: Positions of the visible patches, int64, shape (B, K).
        patch_size: Side P.

    Returns:
        Shape (B, 3, H, W).
    """
    grid = patch_grid(images.shape, patch_size)
    is_visible = torch.zeros(len(images), grid[0] * grid[1], device=images.device).scatter(1, visible, 1.0)
    return torch.where(spread_patches(is_visible, grid, patch_size) > 0, images, GREY)


def draw_reconstruction(pictures: Tensor, predicted: Tensor, visible: Tensor, patch_size: int) -> Tensor:
    """Paste the predicted patches in where the true ones were hidden.

    The network predicts patches without their brightness and contrast (`losses.normalise_patches`);
    each gets those of the true patch:  ŷ · sqrt(var(y) + 1e-6) + mean(y).

    Args:
        pictures: What was to be rebuilt, shape (B, C, H, W).
        predicted: Normalised values of every patch, shape (B, L, P * P * C).
        visible: Positions of the visible patches, which stay as they are, int64, shape (B, K).
        patch_size: Side P.

    Returns:
        Pictures, shape (B, C, H, W).
    """
    true = cut_patches(pictures, patch_size)
    variance, mean = torch.var_mean(true, dim=2, keepdim=True)
    rebuilt = predicted * (variance + 1e-6).sqrt() + mean
    is_visible = torch.zeros(true.shape[:2], device=true.device).scatter(1, visible, 1.0).unsqueeze(2)
    patches = torch.where(is_visible > 0, true, rebuilt)
    return paste_patches(patches, patch_grid(pictures.shape, patch_size), patch_size)


def draw_guidance(images: Tensor, attention: Tensor, patch_size: int) -> Tensor:
    """Lay attention over images, each patch in the colour of its score, from its image's lowest to its highest.

    Args:
        images: Shape (B, 3, H, W).
        attention: One score per patch, shape (B, L).
        patch_size: Side P.

    Returns:
        Shape (B, 3, H, W).
    """
    low, high = attention.amin(dim=1, keepdim=True), attention.amax(dim=1, keepdim=True)
    scaled = (attention - low) / (high - low).clamp(min=torch.finfo(attention.dtype).tiny)
    heat = heat_colours(spread_patches(scaled, patch_grid(images.shape, patch_size), patch_size))
    return HEAT_SHARE * heat + (1 - HEAT_SHARE) * images.mean(dim=1, keepdim=True)


def lay_out(columns: Sequence[Tensor]) -> Tensor:
    """Put images into one, a row for each clip and a column for each way of showing it, white between them.

    Args:
        columns: Images of the same B clips, shape (B, 3, H, W) each.

    Returns:
        One image, shape (3, B * (H + 4) - 4, N * (W + 4) - 4) for N columns.
    """
    table = torch.stack(list(columns), dim=1)  # (B, N, 3, H, W)
    framed = F.pad(table, (0, GAP, 0, GAP), value=1.0)
    num_rows, num_columns, _, height, width = framed.shape
    image = framed.permute(2, 0, 3, 1, 4).reshape(3, num_rows * height, num_columns * width)
    return image[:, :-GAP, :-GAP]
