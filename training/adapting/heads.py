"""A residual head on stored tracks: what an adaptation learns, one for each modality.

    y = unit(x + U·gelu(V·(x·√D) + b₁) + b₂)

U and b₂ are zero at the start, so an untrained head is the identity. The width stays, so the index keeps its layout.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TrackHead(nn.Module):
    """The head of one modality.

    Args:
        width: Width D of the tracks.
        hidden: Width H of the hidden layer.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, hidden)
        self.up = nn.Linear(hidden, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, tracks: Tensor) -> Tensor:
        """Adapt unit rows, shape (..., D), to unit rows of the same shape."""
        scaled = tracks * math.sqrt(tracks.shape[-1])
        return F.normalize(tracks + self.up(F.gelu(self.down(scaled))), dim=-1)


class Projection(nn.Module):
    """The head of one modality of a bundle whose modalities have spaces of their own: a linear map into a common one.

    Args:
        width: Width of the tracks.
        common: Width of the common space.
    """

    def __init__(self, width: int, common: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, common, bias=False)
        nn.init.orthogonal_(self.linear.weight)

    def forward(self, tracks: Tensor) -> Tensor:
        """Project rows, shape (..., width), to unit rows (..., common)."""
        projected: Tensor = self.linear(F.normalize(tracks, dim=-1))
        return F.normalize(projected, dim=-1)


class Classifier(nn.Module):
    """One linear classifier for the vectors of both modalities: u = s·W z + b.

    Args:
        width: Width D of the vectors.
        num_classes: C.
        scale: s: unit vectors alone give logits that are too flat.
    """

    def __init__(self, width: int, num_classes: int, scale: float = 10.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_classes, width) / math.sqrt(width))
        self.bias = nn.Parameter(torch.zeros(num_classes))
        self.scale = scale

    def forward(self, vectors: Tensor) -> Tensor:
        """Unit vectors (B, D) to logits (B, C)."""
        return self.scale * (vectors @ self.weight.T) + self.bias


def pool_tracks(tracks: Tensor) -> Tensor:
    """The vector of a clip: the unit mean of its moments, (B, T, D) → (B, D)."""
    return F.normalize(tracks.mean(dim=1), dim=-1)


def stay_loss(adapted: Tensor, tracks: Tensor) -> Tensor:
    """Squared distance that a head moves each row, mean over rows: ‖y − x‖²."""
    return (adapted - tracks).square().sum(dim=-1).mean()


def draw_moments(num_clips: int, length: int, num_moments: int, generator: torch.Generator) -> Tensor:
    """Draw moments of each clip, the same of a clip for both modalities if the generators are alike.

    Args:
        num_clips: B.
        length: T, moments of a clip.
        num_moments: How many of the T; all where there are no more.
        generator: Draws them.

    Returns:
        int64, shape (B, min(num_moments, T)).
    """
    draws = torch.rand(num_clips, length, generator=generator)
    return draws.topk(min(num_moments, length), dim=1).indices
