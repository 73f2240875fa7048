"""Which patches a pass may see: at random for reconstruction, by the teacher's attention for alignment."""

from __future__ import annotations

import torch
from torch import Tensor


def random_visible(noise: Tensor, num_visible: int) -> Tensor:
    """Keep the patches with the smallest noise: a uniform choice without replacement.

    Args:
        noise: Uniform random numbers, shape (B, L).
        num_visible: How many patches K stay visible.

    Returns:
        Positions of the visible patches, int64, shape (B, K).
    """
    return noise.argsort(dim=1)[:, :num_visible]


def guided_visible(attention: Tensor, num_visible: int) -> Tensor:
    """Keep the patches that the teacher's joint block ranks highest.

    Args:
        attention: One score per patch in the patches' own order, shape (B, L).
        num_visible: How many patches K stay visible.

    Returns:
        Positions of the visible patches, best first, int64, shape (B, K).
    """
    return attention.argsort(dim=1, descending=True)[:, :num_visible]


def sampled_visible(
    attention: Tensor, noise: Tensor, num_visible: int, *, temperature: float = 1.0
) -> Tensor:
    """Draw patches without replacement, the more attention the likelier: Gumbel top-k (arXiv 1903.06059).

    z = (attention - mean) / std of each row;  keep the K largest of  z / temperature - log(-log(noise))

    Attention of some hundred patches is far below 1 each, so its own softmax would be all but uniform: the scores are
    standardised first.

    Args:
        attention: One score per patch in the patches' own order, shape (B, L).
        noise: Uniform random numbers in [0, 1), shape (B, L).
        num_visible: How many patches K stay visible.
        temperature: Above 0; towards 0 it becomes `guided_visible`, towards infinity `random_visible`.

    Returns:
        Positions of the visible patches, int64, shape (B, K).
    """
    std, mean = torch.std_mean(attention.float(), dim=1, keepdim=True)
    scores = (attention.float() - mean) / (std + 1e-12)
    gumbel = -torch.log(-torch.log(noise.clamp(1e-12, 1 - 1e-7)))
    return guided_visible(scores / temperature + gumbel, num_visible)


def hidden_mask(visible: Tensor, num_patches: int) -> Tensor:
    """Mark the patches that are not visible.

    Args:
        visible: Positions of the visible patches, shape (B, K).
        num_patches: Number of patches L.

    Returns:
        1 where a patch is hidden, float32, shape (B, L).
    """
    is_hidden = torch.ones(visible.shape[0], num_patches, device=visible.device)
    return is_hidden.scatter(1, visible, 0.0)


def count_visible(num_patches: int, hidden_share: float) -> int:
    """How many patches stay visible when a share is hidden.

    Worked example: 208 patches, 0.75 hidden → 52; 196 patches, 0.5 hidden → 98.

    Args:
        num_patches: Number of patches L.
        hidden_share: Share of them that is hidden, in [0, 1).

    Returns:
        At least 1.
    """
    return max(1, int(num_patches * (1 - hidden_share)))
