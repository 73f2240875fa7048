"""Progressive self-distillation: a model teaches itself what the annotations do not say, more and more.

A share r of the annotated clips of each batch counts as annotated; all others get soft targets from the classifier's
own softened logits. r falls from 1 to .2 by half a cosine; how far the soft targets are trusted rises from 0 to 1.
After Zeng & Ikeda 2025; the schedule and the trust are ours (docs/adapting.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The share of annotations that count, by step.

    Attributes:
        num_steps: Steps of the whole training.
        start: Share at the first step.
        end: Share at the last.
    """

    num_steps: int
    start: float = 1.0
    end: float = 0.2

    def share(self, step: int) -> float:
        """The share r = r₁ + (r₀ − r₁) · ½ (1 + cos π·step/(S − 1))."""
        turn = math.cos(math.pi * step / max(1, self.num_steps - 1))
        return self.end + (self.start - self.end) * (1 + turn) / 2

    def trust(self, share: float) -> float:
        """How far soft targets are believed at a share: τ = (r₀ − r)/(r₀ − r₁), from 0 to 1."""
        return 0.0 if self.start == self.end else (self.start - share) / (self.start - self.end)


def choose_annotated(has_label: Tensor, draws: Tensor, share: float) -> Tensor:
    """The annotated rows of a batch that count: A = ⌊share · #labelled + ½⌋ of them, those with the smallest draws.

    Args:
        has_label: Which rows have an annotation, bool, shape (B,).
        draws: Uniform numbers in [0, 1), shape (B,).
        share: r.

    Returns:
        bool, shape (B,).
    """
    num_chosen = math.floor(share * int(has_label.sum()) + 0.5)
    order = draws.masked_fill(~has_label, math.inf).argsort()
    chosen = torch.zeros_like(has_label)
    chosen[order[:num_chosen]] = True
    return chosen


def soft_targets(logits: Tensor, *, has_many: bool, temperature: float = 0.5) -> Tensor:
    """What a classifier says of clips, softened, without gradient, (B, C): softmax, or sigmoid where there are many."""
    softened = logits.detach() / temperature
    return softened.sigmoid() if has_many else softened.softmax(dim=1)


def targets_of(
    logits: Tensor, truth: Tensor, is_annotated: Tensor, *, has_many: bool, temperature: float = 0.5
) -> Tensor:
    """q, shape (B, C): the annotation of annotated clips, soft targets of all others."""
    soft = soft_targets(logits, has_many=has_many, temperature=temperature)
    return torch.where(is_annotated[:, None], truth, soft)


def trust_of(is_annotated: Tensor, trust: float, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """ω, shape (B,): 1 of annotated clips, `trust` of all others."""
    return torch.where(is_annotated, 1.0, trust).to(dtype)
