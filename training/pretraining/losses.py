"""The three losses of TG-DP: reconstruct hidden patches, follow the teacher, bring sound and picture together.

L = weight_reconstruction · L_rec + weight_distillation · L_dis + weight_contrastive · L_con
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def cut_patches(pictures: Tensor, patch_size: int) -> Tensor:
    """Cut pictures into the values of their patches: the targets of reconstruction.

    Args:
        pictures: Shape (B, C, H, W); H and W are multiples of the patch side P.
        patch_size: Side P.

    Returns:
        Patches row by row, values ordered (top, left, channel), shape (B, L, P * P * C).
    """
    batch, channels, height, width = pictures.shape
    rows, columns = height // patch_size, width // patch_size
    grid = pictures.reshape(batch, channels, rows, patch_size, columns, patch_size)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, patch_size**2 * channels)


def normalise_patches(patches: Tensor) -> Tensor:
    """Give every patch mean 0 and unbiased variance 1, so that contrast and not brightness is predicted.

    Args:
        patches: Shape (B, L, V).

    Returns:
        Shape (B, L, V).
    """
    variance, mean = torch.var_mean(patches, dim=2, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()


def reconstruction_loss(predicted: Tensor, target: Tensor, is_hidden: Tensor) -> Tensor:
    """Mean squared error on the hidden patches only: Σ hidden · mean((ŷ − y)²) / Σ hidden.

    Args:
        predicted: Shape (B, L, V).
        target: Shape (B, L, V), normalised per patch (`normalise_patches`).
        is_hidden: 1 where the patch was hidden, shape (B, L).

    Returns:
        Scalar.
    """
    error = (predicted - target).square().mean(dim=2)
    return (error * is_hidden).sum() / is_hidden.sum()


def distillation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of the student's embedding to the teacher's, mean over the batch: ‖g − ĝ‖².

    Args:
        student: Embeddings of the alignment pass, shape (B, D).
        teacher: Embeddings of the full view, shape (B, D), no gradient.

    Returns:
        Scalar.
    """
    return (student - teacher.detach()).square().sum(dim=1).mean()


def contrastive_loss(audio: Tensor, video: Tensor, *, temperature: float = 0.05) -> Tensor:
    """InfoNCE in both directions over every pair of the batch.

    s_ij = cos(audio_i, video_j) / temperature;  loss = (CE(s, diagonal) + CE(sᵀ, diagonal)) / 2

    Args:
        audio: Embeddings, any norm, shape (B, D).
        video: Embeddings of the same clips in the same order, shape (B, D).
        temperature: Divides the cosines.

    Returns:
        Scalar.
    """
    similarity = F.normalize(audio, dim=1) @ F.normalize(video, dim=1).T / temperature
    own = torch.arange(similarity.shape[0], device=similarity.device)
    return (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)) / 2
