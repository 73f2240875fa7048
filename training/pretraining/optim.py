"""The optimiser: AdamW, its schedule, and the limit of the gradient."""

from __future__ import annotations

import math

import torch

from models.network.tgdp import Tgdp
from training.pretraining.config import PretrainConfig


def learning_rate_at(step: int, config: PretrainConfig) -> float:
    """Linear warm-up, then cosine to zero.

    Args:
        step: Steps done.
        config: The run.

    Returns:
        Learning rate of the next step.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.num_steps - config.warmup_steps)
    return config.learning_rate * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def make_optimiser(student: Tgdp, config: PretrainConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only, not on biases, norms and single tokens.

    Args:
        student: The network.
        config: Rates.

    Returns:
        The optimiser.
    """
    matrices = [p for p in student.parameters() if p.ndim >= 2 and p.shape[0] > 1]
    others = [p for p in student.parameters() if p.ndim < 2 or p.shape[0] == 1]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=config.betas,
        fused=True,
    )


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give every group of parameters one learning rate.

    Args:
        optimiser: Changed in place.
        rate: The rate of the next step.
    """
    for group in optimiser.param_groups:
        group["lr"] = rate
