"""The teacher: a slow average of the student that sees everything and is never trained."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from models.network.geometry import MODALITIES, Modality
from models.network.tgdp import FullView, Tgdp


def momentum_at(step: int, num_steps: int, start: float, end: float = 1.0) -> float:
    """Cosine schedule of the averaging momentum from `start` at step 0 to `end` after the last step.

    Args:
        step: Steps done.
        num_steps: Steps of the whole run.
        start: Momentum at the beginning.
        end: Momentum at the end.

    Returns:
        Momentum in [start, end].
    """
    return end - (end - start) * (math.cos(math.pi * min(step, num_steps) / num_steps) + 1) / 2


class Teacher:
    """Exponential moving average of a student.

    Args:
        student: The network to start from and to follow.
    """

    def __init__(self, student: Tgdp) -> None:
        self.network = copy.deepcopy(student).eval().requires_grad_(False)

    @torch.no_grad()
    def follow(self, student: Tgdp, momentum: float) -> None:
        """Move every weight towards the student's: teacher = momentum · teacher + (1 − momentum) · student.

        Args:
            student: The network to follow.
            momentum: In [0, 1]; 1 stands still.
        """
        ours: list[Tensor] = list(self.network.parameters())
        theirs: list[Tensor] = list(student.parameters())
        torch._foreach_lerp_(ours, theirs, 1 - momentum)

    @torch.no_grad()
    def view(self, pictures: dict[Modality, Tensor]) -> dict[Modality, FullView]:
        """Look at every patch of both pictures, each token in its own place.

        Args:
            pictures: Audio (B, 1, M, W) and video (B, 3, H, W).

        Returns:
            Embedding and attention of each modality.
        """
        return {m: self.network.full_view(self.network.embed_patches(pictures[m], m), m) for m in MODALITIES}
